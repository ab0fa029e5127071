"""docs/extending.md: what it says is enough for a new kind is enough."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.documentation import ROOT
from tests.helpers.tiny_store import write_store
from xqg_jax.errors import InputError
from xqg_jax.indexes.index import BuiltIndex
from xqg_jax.indexes.kinds import KINDS, open_index
from xqg_jax.models.dual_encoder.config import DualEncoderConfig
from xqg_jax.models.dual_encoder.pooling import (
  POOLINGS,
  Pooling,
  pool_segments,
)
from xqg_jax.stages.index import build_index
from xqg_jax.stages.update_index import update_index
from xqg_jax.store.shards import ShardArrays

VECTORS = np.eye(5, 4, dtype=np.float32) + np.float32(0.1)


class SignIndex(BuiltIndex):
  """Ranks by how many signs agree; keeps them in a file of its own."""

  is_exact = False
  shown_name = "signs"

  @staticmethod
  def check(wishes, num_passages):
    if num_passages > 100:
      raise InputError("too many passages for signs", mend="use fewer")

  @staticmethod
  def build(folder, view, wishes, queries):
    (folder / "signs").mkdir(exist_ok=True)
    rows = np.concatenate([vectors for _, vectors in view.blocks(2)])
    np.save(folder / "signs" / "signs.npy", np.sign(rows - 0.5))
    return {"num_signs": rows.size}

  def search(self, queries, k, **settings):
    signs = np.load(self.path / "signs" / "signs.npy")
    scores = np.sign(queries - 0.5) @ signs.T
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k].astype(np.int32)
    return np.take_along_axis(scores, rows, axis=1).astype(np.float32), rows


@pytest.fixture
def store(tmp_path):
  ids = [f"p{row}" for row in range(len(VECTORS))]
  return write_store(tmp_path / "store", ShardArrays(ids, VECTORS))


def test_an_index_is_a_class_and_a_line(store, tmp_path, monkeypatch):
  with pytest.raises(InputError, match="unknown kind of index 'signs'"):
    build_index(embeddings=store, output_dir=tmp_path / "index", kind="signs")
  monkeypatch.setitem(KINDS, "signs", SignIndex)
  built = build_index(
    embeddings=store, output_dir=tmp_path / "index", kind="signs"
  )
  assert built.manifest["num_signs"] == 20
  with open_index(tmp_path / "index") as index:
    assert (index.kind, index.passage_ids[4]) == ("signs", "p4")
    scores, rows = index.search(VECTORS[1:3], 2)
  assert rows.tolist() == [[1, 4], [2, 4]]  # 4 has no sign of its own
  assert scores.tolist() == [[4, 2], [4, 2]]


def test_such_an_index_is_updated_like_any_other(store, tmp_path, monkeypatch):
  monkeypatch.setitem(KINDS, "signs", SignIndex)
  build_index(embeddings=store, output_dir=tmp_path / "index", kind="signs")
  ids = ["p0", "p1", "new"]
  newer = write_store(tmp_path / "newer", ShardArrays(ids, VECTORS[[0, 1, 2]]))
  updated = update_index(
    index=tmp_path / "index",
    embeddings=newer,
    output_dir=tmp_path / "updated",
  )
  with updated:
    _, rows = updated.search(VECTORS[1:2], 3)
  assert rows[0].tolist()[0] == 1
  assert sorted(rows[0].tolist()) == [0, 1, 2]


def test_a_pooling_is_one_entry(monkeypatch):
  with pytest.raises(InputError, match="pooling is 'second'"):
    DualEncoderConfig(pooling="second", normalize=False)
  second = Pooling("pooling_mode_second", lambda taken, at: taken & (at == 1))
  monkeypatch.setitem(POOLINGS, "second", second)
  DualEncoderConfig(pooling="second", normalize=False)
  pooled = pool_segments(
    jnp.array([[[1.0], [3.0], [5.0], [9.0]]]),
    jnp.array([[1, 1, 2, 2]]),
    jnp.array([[0, 1, 0, 1]]),
    pooling="second",
    num_segments=2,
  )
  assert pooled.tolist() == [[[3.0], [9.0]]]


def test_the_files_that_the_page_names_exist():
  text = (ROOT / "docs/extending.md").read_text()
  named = re.findall(r"`((?:[\w.]+/)+(?:\w+\.(?:py|gin|md))?)`", text)
  own = [name for name in named if "your" not in name]
  assert len(own) > 40
  for name in own:
    assert (ROOT / "xqg_jax" / name).exists() or (ROOT / name).exists(), name
