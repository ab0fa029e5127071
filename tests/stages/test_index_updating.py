"""Indexes that are updated: as if built anew, and refused where that fails."""

import shutil

import numpy as np
import pytest

from tests.helpers.tiny_store import write_store
from xqg_jax.errors import InputError
from xqg_jax.indexes.exact.search import search_exact
from xqg_jax.indexes.kinds import open_index
from xqg_jax.stages.index import build_index
from xqg_jax.stages.update_index import update_index
from xqg_jax.store.shards import ShardArrays

DIM = 16
RNG = np.random.default_rng(0)
VECTORS = RNG.standard_normal((600, DIM)).astype(np.float32)
QUERIES = RNG.standard_normal((30, DIM)).astype(np.float32)


def write_passages(folder, ids, vectors, *, encoder="encoder-1"):
  arrays = ShardArrays([f"p{i}" for i in ids], vectors, None, None)
  return write_store(folder, arrays, encoder=encoder)


def change(vectors, ids):
  """Removes 100 passages, changes 30, adds 40, and turns the order around."""
  kept = np.arange(100, 600)
  changed = vectors[kept].copy()
  changed[:30] = -changed[:30]
  added = np.random.default_rng(5).standard_normal((40, DIM)).astype("f4")
  return (
    np.concatenate([kept, np.arange(9000, 9040)])[::-1],
    np.concatenate([changed, added])[::-1].copy(),
  )


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  root = tmp_path_factory.mktemp("world")
  write_passages(root / "old", range(600), VECTORS)
  ids, vectors = change(VECTORS, range(600))
  write_passages(root / "new", ids, vectors)
  # All leaves and candidates: what is left is exact.
  build_index(
    embeddings=root / "old",
    output_dir=root / "index",
    k=20,
    num_leaves=10,
    num_leaves_to_search=10,
    num_reordered=600,
  )
  return root, vectors


def test_an_updated_index_finds_what_a_new_one_would(world, capsys):
  root, vectors = world
  with update_index(
    index=root / "index",
    embeddings=root / "new",
    output_dir=root / "updated",
  ) as updated:
    assert updated.manifest["update"] == {
      "kept": 470,
      "added": 40,
      "changed": 30,
      "removed": 100,
    }
    assert "470 kept, 40 added, 30 changed, 100 removed" in (
      capsys.readouterr().err
    )
    assert (
      "70 of 540 passages are searched exactly"
      in (updated.manifest["notes"][0])
    )
    assert len(updated.passage_ids) == 540
    for k in (1, 20, 300, 900):
      scores, rows = updated.search(QUERIES, k)
      expected = search_exact(QUERIES, [(0, vectors)], k)
      np.testing.assert_array_equal(rows, expected[1])
      np.testing.assert_allclose(scores, expected[0], rtol=1e-5, atol=1e-5)
  again = update_index(
    index=root / "updated", embeddings=root / "old", output_dir=root / "back"
  )
  assert again.manifest["update"]["removed"] == 40
  # An update of the built index, not of an update: 470 of its passages stayed.
  assert again.manifest["base_index"] == "../index"
  assert (
    "130 of 600 passages are searched exactly" in (again.manifest["notes"][-1])
  )
  assert len(again.manifest["notes"]) == 1
  np.testing.assert_array_equal(
    again.search(QUERIES, 20)[1], search_exact(QUERIES, [(0, VECTORS)], 20)[1]
  )
  again.close()


@pytest.mark.parametrize("name", ["fresh.npy", "passage_ids.txt"])
def test_a_damaged_update_is_told_of_and_made_again(
  world, tmp_path, capsys, name
):
  root, _ = world
  arguments = {
    "index": root / "index",
    "embeddings": root / "new",
    "output_dir": tmp_path / "updated",
  }
  first = update_index(**arguments)
  content = (first.path / name).read_bytes()
  (first.path / name).write_bytes(content[:-1])
  again = update_index(**arguments)
  assert again.manifest == first.manifest
  assert (first.path / name).read_bytes() == content
  assert f"{name}: differs from its checksum" in capsys.readouterr().err


def test_embeddings_in_a_bucket_are_found_again(world, tmp_path):
  root, vectors = world
  bucket = "memory://updating/new"
  write_passages(bucket, range(540), vectors)
  updated = update_index(
    index=root / "index", embeddings=bucket, output_dir=tmp_path / "updated"
  )
  assert updated.open_embeddings().num_passages == 540


def test_what_does_not_belong_together_is_refused(world, tmp_path):
  root, vectors = world

  def update(index=root / "index", embeddings=root / "new"):
    return update_index(
      index=index, embeddings=embeddings, output_dir=tmp_path / "updated"
    )

  other = write_passages(
    tmp_path / "other", range(540), vectors, encoder="encoder-2"
  )
  with pytest.raises(InputError, match="of another encoder"):
    update(embeddings=other)
  exact = tmp_path / "exact"
  build_index(embeddings=root / "old", output_dir=exact, kind="exact")
  with pytest.raises(InputError, match="nothing to update"):
    update(index=exact)
  for name in ("old", "index"):
    shutil.copytree(root / name, tmp_path / name)
  updated = update(index=tmp_path / "index")
  # The index below another: the update notices.
  shutil.rmtree(tmp_path / "index")
  build_index(
    embeddings=tmp_path / "old",
    output_dir=tmp_path / "index",
    num_leaves_to_search=1,
  )
  with pytest.raises(InputError, match="not the one that was updated"):
    updated.search(QUERIES, 1)
  fresh = updated.path / "fresh.npy"
  content = bytearray(fresh.read_bytes())
  content[-3] ^= 1
  fresh.write_bytes(content)
  with pytest.raises(InputError, match="differs from its checksum"):
    open_index(updated.path).search(QUERIES, 1)
