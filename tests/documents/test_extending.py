"""docs/extending.md: what it says is enough for a new kind is enough."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.documentation import ROOT
from tests.helpers.tiny_store import write_store
from xqg_jax.data.generated_queries import read_generated_queries
from xqg_jax.errors import InputError
from xqg_jax.generation.query_writer import (
  Prompt,
  QueryWriter,
  WrittenQueries,
)
from xqg_jax.indexes.index import BuiltIndex
from xqg_jax.indexes.kinds import KINDS, open_index
from xqg_jax.models.dual_encoder.config import DualEncoderConfig
from xqg_jax.models.dual_encoder.pooling import (
  POOLINGS,
  Pooling,
  pool_segments,
)
from xqg_jax.stages.generate import generate
from xqg_jax.stages.index import build_index
from xqg_jax.stages.update_index import update_index
from xqg_jax.store.shards import ShardArrays
from xqg_jax.training.losses.distillation import DISTILLATIONS
from xqg_jax.training.losses.ranking import RankingObjective

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


class EchoWriter(QueryWriter):
  """Asks for each passage by its title, as an endpoint might."""

  def __init__(self, settings):
    self.settings = settings

  def describe(self):
    return {"generator": "echo 1"}

  def make_prompts(self, passages):
    codes = tuple(language.code for language in self.settings.languages)
    return [
      Prompt(row, passage.title, codes, is_cut=False)
      for row, passage in enumerate(passages)
    ]

  def write_prompts(self, prompts, num_passages, *, on_progress=lambda n: None):
    numbers = range(self.settings.num_queries)
    queries = [
      {
        code: [f"Mikä on {prompt.passage_id} {n}?" for n in numbers]
        for code in prompt.languages
      }
      for prompt in prompts
    ]
    on_progress(sum(len(q) for texts in queries for q in texts.values()))
    return WrittenQueries(queries, [dict.fromkeys(q, 0) for q in queries])


def test_a_query_writer_is_a_class_that_is_opened(tmp_path, monkeypatch):
  monkeypatch.setattr(
    "xqg_jax.stages.generate.open_writer",
    lambda path, settings, **_: EchoWriter(settings),
  )
  rows = [f"p{i}\tText {i}.\tOulu {i}" for i in range(5)]
  passages = tmp_path / "passages.tsv"
  passages.write_text("\n".join(["id\ttext\ttitle", *rows]) + "\n")
  for _ in range(2):  # the second finds the first's work done
    manifest = generate(
      checkpoint_path="echo",
      passages=passages,
      output_dir=tmp_path / "generated",
      languages=("fi",),
      num_queries=2,
      shard_size=2,
    )
  assert manifest["generator"] == "echo 1"
  written = [
    q.queries for _, q in read_generated_queries(tmp_path / "generated")
  ]
  assert len(written) == 5
  assert written[3] == {"fi": ("Mikä on Oulu 3 0?", "Mikä on Oulu 3 1?")}


def test_a_distillation_is_a_function_and_an_entry(monkeypatch):
  with pytest.raises(InputError, match="distillation names 'mse'"):
    RankingObjective(distillation="mse")

  def mse(scores, teacher_scores, mask):
    return jnp.mean(jnp.where(mask, (scores - teacher_scores) ** 2, 0.0))

  monkeypatch.setitem(DISTILLATIONS, "mse", mse)
  objective = RankingObjective(distillation="mse", distillation_weight=1.0)
  loss, _ = objective(
    jnp.array([[1.0, 0.0]]),
    jnp.array([[3.0, 0.0], [1.0, 0.0]]),
    passage_mask=jnp.array([True, True]),
    batch={"teacher_scores": jnp.array([[1.0, 1.0]])},
  )
  assert float(loss) == 2.0  # of scores 3 and 1
