"""The stage `index`: tuning, checksums, damage, small corpora."""

import json
import os
import shutil
import signal

import numpy as np
import pytest

from tests.helpers.tiny_store import write_store
from xqg_jax.augmentation.settings import Augmentation
from xqg_jax.augmentation.views import AugmentedView, open_view
from xqg_jax.errors import InputError
from xqg_jax.indexes.exact.search import search_exact
from xqg_jax.indexes.scann.index import ScannIndex
from xqg_jax.indexes.scann.process import ScannError
from xqg_jax.indexes.scann.tuning import (
  make_tuning_queries,
  measure_index_recall,
  read_tuning_queries,
  tune_parameters,
)
from xqg_jax.io.files import sha256_file
from xqg_jax.io.locations import Location
from xqg_jax.stages.augment import augment
from xqg_jax.stages.index import build_index, open_index
from xqg_jax.store.shards import ShardArrays
from xqg_jax.store.store import open_store, write_manifest

DIM = 24


def clustered(n, seed):
  rng = np.random.default_rng(seed)
  centres = np.random.default_rng(99).standard_normal((30, DIM))
  x = centres[rng.integers(0, 30, n)] + 0.8 * rng.standard_normal((n, DIM))
  return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def make_store(folder, n, seed=0):
  rng = np.random.default_rng(seed)
  arrays = ShardArrays(
    [f"passage-{i}" for i in range(n)],
    clustered(n, seed),
    rng.standard_normal((n, 1, DIM)).astype(np.float32),
    np.full((n, 1), 5, np.int32),
  )
  return write_store(folder, arrays, encoder="encoder-1")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
  return make_store(tmp_path_factory.mktemp("s") / "store", 1500)


@pytest.fixture(scope="module")
def index(store, tmp_path_factory):
  folder = tmp_path_factory.mktemp("i") / "index"
  with build_index(embeddings=store, output_dir=folder, k=20) as built:
    yield built


@pytest.fixture
def copy(index, tmp_path):
  shutil.copytree(index.path, tmp_path / "copy" / "index")
  shutil.copytree(index.embeddings, tmp_path / "copy" / "store")
  manifest = dict(index.manifest, embeddings="../store")
  path = tmp_path / "copy" / "index"
  (path / "manifest.json").write_text(json.dumps(manifest))
  return path


def _exact(store, queries, k):
  return search_exact(queries, open_view(store).blocks(700), k)


def test_index_reaches_the_wanted_recall_on_queries_of_its_own(index, store):
  queries = clustered(300, seed=7)
  recall = measure_index_recall(
    index.search(queries, 20), _exact(store, queries, 20)
  )
  assert index.kind == "scann"
  assert recall > 0.975
  assert index.manifest["measured"]["index_recall"] > 0.98
  assert index.manifest["measured"]["num_queries"] == 256
  assert index.manifest["measured"]["queries_per_second"] > 0
  parameters = index.manifest["parameters"]
  assert parameters["num_leaves"] == 39
  assert 20 <= parameters["num_reordered"] < 1500


def test_manifest_names_what_was_indexed(index, store):
  manifest = index.manifest
  opened = open_store(store)
  assert manifest["num_passages"] == 1500
  assert manifest["dim"] == DIM
  assert manifest["embeddings_fingerprint"] == opened.fingerprint
  assert index.encoder_fingerprint == "encoder-1"
  assert index.passage_ids == [f"passage-{i}" for i in range(1500)]
  assert index.embeddings == Location.of(store.resolve())
  names = {path.name for path in index.path.iterdir()} - {".lock"}
  files = {"run.json", "manifest.json", "passage_ids.txt"}
  assert names == {*files, "scann", "finished"}
  for name, checksum in manifest["assets"].items():
    assert sha256_file(index.path / "scann" / name) == checksum


def test_higher_target_costs_more_work(index, store, tmp_path):
  low = build_index(
    embeddings=store, output_dir=tmp_path / "low", target_index_recall=0.5, k=20
  )
  assert low.manifest["measured"]["index_recall"] >= 0.45
  assert (
    low.manifest["parameters"]["num_leaves_to_search"]
    < index.manifest["parameters"]["num_leaves_to_search"]
  )


def test_same_call_finds_its_work_done_and_another_is_refused(index, store):
  before = (index.path / "manifest.json").stat().st_mtime_ns
  again = build_index(embeddings=store, output_dir=index.path, k=20)
  assert again.manifest == index.manifest
  assert (index.path / "manifest.json").stat().st_mtime_ns == before
  with pytest.raises(InputError, match="already holds a run with another k"):
    build_index(embeddings=store, output_dir=index.path, k=21)


def test_interrupted_build_is_finished_with_the_same_bytes(copy, index):
  (copy / "manifest.json").unlink()
  (copy / ".build").mkdir()
  (copy / ".build" / "vectors.npy").write_bytes(b"half")
  (copy / "scann" / "dataset.npy").write_bytes(b"half")
  with build_index(
    embeddings=copy.parent / "store", output_dir=copy, k=20
  ) as mended:
    assert mended.manifest["assets"] == index.manifest["assets"]
    assert mended.fingerprint == index.fingerprint
    assert not (copy / ".build").exists()
    queries = clustered(5, seed=1)
    np.testing.assert_array_equal(
      mended.search(queries, 20)[1], index.search(queries, 20)[1]
    )


def test_moved_index_with_its_store_still_opens(copy, index):
  queries = clustered(5, seed=1)
  with open_index(copy) as moved:
    np.testing.assert_array_equal(
      moved.search(queries, 20)[1], index.search(queries, 20)[1]
    )
    assert moved.embeddings == Location.of(copy.parent.resolve() / "store")
    assert moved.fingerprint == index.fingerprint


def test_a_crash_of_scann_lasts_for_one_search(copy):
  queries = clustered(5, seed=1)
  with open_index(copy) as opened:
    expected = opened.search(queries, 20)[1]
    os.kill(opened._loaded["scann"].worker_pid, signal.SIGKILL)
    with pytest.raises(ScannError, match="SIGKILL"):
      opened.search(queries, 20)
    np.testing.assert_array_equal(opened.search(queries, 20)[1], expected)


def test_numbers_given_are_kept(store, tmp_path):
  with build_index(
    embeddings=store,
    output_dir=tmp_path / "given",
    num_leaves=20,
    num_leaves_to_search=3,
    num_reordered=77,
    k=20,
  ) as built:
    parameters = built.manifest["parameters"]
    assert parameters["num_leaves"] == 20
    assert parameters["num_leaves_to_search"] == 3
    assert parameters["num_reordered"] == 77
    assert built.manifest["measured"]["index_recall"] < 0.9


def test_small_corpora_are_searched_exactly_with_a_note(tmp_path, capsys):
  small = make_store(tmp_path / "store", 150)
  built = build_index(embeddings=small, output_dir=tmp_path / "index")
  assert built.kind == "exact"
  assert built.manifest["notes"] == [
    "150 passages are fewer than 200: searched exactly instead of with ScaNN"
  ]
  assert "150 passages are fewer than 200" in capsys.readouterr().err
  queries = clustered(4, seed=1)
  for found, expected in zip(
    built.search(queries, 500), _exact(small, queries, 500), strict=True
  ):
    np.testing.assert_array_equal(found, expected)
  assert built.search(queries, 500)[1].shape == (4, 150)


def test_exact_index_of_a_view_searches_augmented_vectors(store, tmp_path):
  view = augment(
    store=store, output_dir=tmp_path / "view", reduction="mean", alpha=0.4
  )
  built = build_index(
    embeddings=tmp_path / "view", output_dir=tmp_path / "index", kind="exact"
  )
  queries = clustered(4, seed=1)
  expected = search_exact(queries, view.blocks(1500), 5)
  np.testing.assert_array_equal(built.search(queries, 5)[1], expected[1])
  assert not (expected[1] == _exact(store, queries, 5)[1]).all()
  assert "parameters" not in built.manifest
  assert built.manifest["embeddings_fingerprint"] == view.fingerprint


def test_exact_index_refuses_other_embeddings_in_the_same_place(tmp_path):
  store = make_store(tmp_path / "store", 50)
  build_index(embeddings=store, output_dir=tmp_path / "index", kind="exact")
  shutil.rmtree(store)
  make_store(tmp_path / "store", 50, seed=5)
  with pytest.raises(InputError, match="not those that were indexed"):
    open_index(tmp_path / "index").search(clustered(1, seed=1), 3)


def test_a_store_in_a_bucket_is_found_again(tmp_path):
  bucket = "memory://indexing/store"
  make_store(bucket, 50)
  built = build_index(
    embeddings=bucket, output_dir=tmp_path / "index", kind="exact"
  )
  assert built.manifest["embeddings"] == bucket
  queries = clustered(3, seed=1)
  np.testing.assert_array_equal(
    built.search(queries, 5)[1], _exact(bucket, queries, 5)[1]
  )


# --------------------------------------------------------------------- shards


def test_shards_find_what_one_index_does_and_are_kept(store, tmp_path, capsys):
  folder = tmp_path / "index"
  wishes = {"embeddings": store, "output_dir": folder, "k": 20}
  with build_index(rows_per_shard=600, **wishes) as built:
    shards = built.manifest["shards"]
    assert [(s["name"], s["start"], s["rows"]) for s in shards] == [
      ("scann-00000", 0, 500),
      ("scann-00001", 500, 500),
      ("scann-00002", 1000, 500),
    ]
    assert built.manifest["measured"]["index_recall"] > 0.98
    queries = clustered(100, seed=7)
    exact = _exact(store, queries, 20)
    found = built.search(queries, 20)
    assert measure_index_recall(found, exact) > 0.975
    all_rows = built.search(queries[:1], 1500)[1]
    assert len(set(all_rows[0]) - {-1}) == (all_rows[0] >= 0).sum()
  # An interrupted run: two shards are finished, of which one was damaged
  # since, and the third is half there.
  (folder / "manifest.json").unlink()
  (folder / ".build").mkdir()
  (folder / "finished" / "scann-00002.json").unlink()
  (folder / "scann-00001" / "dataset.npy").write_bytes(b"damaged")
  (folder / "scann-00002" / "dataset.npy").unlink()
  kept = (folder / "scann-00000" / "dataset.npy").stat().st_mtime_ns
  with build_index(rows_per_shard=600, **wishes) as again:
    assert again.manifest["shards"] == shards
    assert (folder / "scann-00000" / "dataset.npy").stat().st_mtime_ns == kept
    np.testing.assert_array_equal(again.search(queries, 20)[1], found[1])
  assert not (folder / ".build").exists()


def test_too_many_shards_and_both_ways_to_count_are_refused(store, tmp_path):
  wishes = {"embeddings": store, "output_dir": tmp_path / "index"}
  with pytest.raises(InputError, match="8 shards leave fewer than 200"):
    build_index(num_shards=8, **wishes)
  with pytest.raises(InputError, match="both num_shards and rows_per_shard"):
    build_index(num_shards=2, rows_per_shard=700, **wishes)
  assert not (tmp_path / "index").exists()


# ------------------------------------------------------------------ bad input


def test_one_flipped_byte_is_found(copy):
  path = copy / "scann" / "hashed_dataset.npy"
  content = bytearray(path.read_bytes())
  content[-9] ^= 0x10
  path.write_bytes(content)
  with pytest.raises(
    InputError,
    match=r"hashed_dataset.npy: .* changed or cut .* run the same index",
  ):
    open_index(copy).search(clustered(1, seed=1), 3)


@pytest.mark.parametrize("name", ["scann/dataset.npy", "passage_ids.txt"])
def test_the_same_command_mends_a_finished_index(copy, index, capsys, name):
  before = (copy / name).read_bytes()
  (copy / name).write_bytes(before[:-1])
  again = build_index(embeddings=copy.parent / "store", output_dir=copy, k=20)
  assert (copy / name).read_bytes() == before
  assert again.fingerprint == index.fingerprint
  assert (
    f"xqg: index: making it again: {copy / name}" in capsys.readouterr().err
  )
  again.verify()


def test_an_index_of_an_earlier_version_is_left_alone(copy, capsys):
  """It has no records beside its manifest."""
  shutil.rmtree(copy / "finished")
  before = (copy / "scann" / "dataset.npy").stat().st_mtime_ns
  build_index(embeddings=copy.parent / "store", output_dir=copy, k=20)
  assert (copy / "scann" / "dataset.npy").stat().st_mtime_ns == before
  assert "making it again" not in capsys.readouterr().err


def test_missing_asset_and_changed_ids_are_found(copy):
  (copy / "scann" / "dataset.npy").unlink()
  with pytest.raises(InputError, match=r"dataset.npy: .* missing"):
    open_index(copy).search(clustered(1, seed=1), 3)
  ids = copy / "passage_ids.txt"
  ids.write_text(ids.read_text().replace("passage-7\n", "passage-8\n"))
  with pytest.raises(InputError, match="differs from its checksum"):
    _ = open_index(copy).passage_ids


def test_unusable_queries_are_refused(index, store, tmp_path):
  exact = build_index(
    embeddings=store, output_dir=tmp_path / "exact", kind="exact"
  )
  for searched in (index, exact):
    with pytest.raises(InputError, match="queries have 5 dimensions"):
      searched.search(np.ones((1, 5), np.float32), 3)
    with pytest.raises(InputError, match="query 0 holds NaN"):
      searched.search(np.full((1, DIM), np.nan, np.float32), 3)
    assert searched.search(clustered(1, seed=1), 9999)[1].shape == (1, 1500)


def test_a_corpus_without_passages_is_refused(tmp_path):
  write_manifest(
    tmp_path,
    shards=[],
    dim=DIM,
    dtype="float32",
    encoder={"fingerprint": "encoder-1"},
    groups=[],
    inputs={},
  )
  with pytest.raises(InputError, match="the corpus is empty"):
    build_index(embeddings=tmp_path, output_dir=tmp_path / "index")


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"kind": "faiss"}, "kind"),
    ({"target_index_recall": 0.0}, "target_index_recall is 0.0"),
    ({"target_index_recall": 1.5}, "target_index_recall is 1.5"),
    ({"k": 0}, "k is 0"),
    ({"num_leaves": 1501}, "num_leaves is 1501 for 1500 passages"),
    ({"num_reordered": 0}, "num_reordered is 0"),
    ({"tuning_queries": "absent.npy"}, "absent.npy: not a .npy file"),
    ({"embeddings": "nowhere"}, "nowhere"),
  ],
)
def test_bad_arguments_leave_nothing_behind(
  store, tmp_path, arguments, message
):
  arguments = {"embeddings": store, **arguments}
  with pytest.raises(Exception, match=message) as error:
    build_index(output_dir=tmp_path / "index", **arguments)
  if "kind" not in arguments:  # refused by the type check in tests
    assert isinstance(error.value, InputError)
  assert not (tmp_path / "index").exists()


def test_no_index_and_no_manifest_of_an_index_are_refused(store, tmp_path):
  with pytest.raises(InputError, match="no finished index here"):
    open_index(tmp_path)
  with pytest.raises(InputError, match="not an index of format version 1"):
    open_index(store)


@pytest.mark.parametrize(
  "bounds",
  [
    [(0, 700)],
    [(0, 700), (701, 799)],
    [(0, 700), (700, 801)],
    [(0, 1500), (0, 9)],
  ],
)
def test_shards_that_are_not_all_rows_are_refused(tmp_path, index, bounds):
  (whole,) = index.shards
  shards = [{**whole, "start": start, "rows": rows} for start, rows in bounds]
  manifest = {**index.manifest, "shards": shards}
  (tmp_path / "manifest.json").write_text(json.dumps(manifest))
  with pytest.raises(InputError, match="shards do not hold rows 0 to 1500"):
    open_index(tmp_path)


# --------------------------------------------------------------------- tuning


def test_index_recall_by_hand():
  exact = (
    np.array([[9.0, 8.0, 7.0], [6.0, 5.0, 5.0]]),
    np.array([[1, 2, 3], [4, 5, 6]]),
  )
  found = (
    np.array([[9.0, 7.0, 1.0], [6.0, 5.0, -np.inf]]),
    np.array([[1, 3, 8], [4, 7, -1]]),
  )
  # Two of three; and one, plus row 7 that ties with the last, of three.
  assert measure_index_recall(found, exact) == pytest.approx(4 / 6)
  assert measure_index_recall(exact, exact) == 1.0


def test_tuning_queries_are_near_passages_but_not_on_them(store):
  view = open_view(store)
  queries = make_tuning_queries(view, num_queries=200, seed=3)
  again = make_tuning_queries(view, num_queries=200, seed=3)
  np.testing.assert_array_equal(queries, again)
  assert queries.dtype == np.float32
  np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1, rtol=1e-5)
  best = _exact(store, queries, 1)[0]
  assert (best < 0.999).all()
  assert best.mean() > 0.6
  assert len(make_tuning_queries(view, num_queries=9999, seed=3)) == 1500


def test_question_vectors_can_be_given_for_tuning(store, tmp_path):
  path = tmp_path / "questions.npy"
  np.save(path, clustered(40, seed=11))
  drawn = read_tuning_queries(path, dim=DIM, num_queries=30, seed=0)
  assert drawn.shape == (30, DIM)
  assert {row.tobytes() for row in drawn} <= {
    row.tobytes() for row in np.load(path)
  }
  built = build_index(
    embeddings=store,
    output_dir=tmp_path / "index",
    tuning_queries=path,
    num_tuning_queries=30,
    k=20,
  )
  assert built.manifest["measured"]["num_queries"] == 20


@pytest.mark.parametrize(
  ("array", "message"),
  [
    (np.ones((3, 5), np.float32), "queries have 5 dimensions"),
    (np.full((3, DIM), np.nan, np.float32), "query 0 holds NaN"),
    (np.ones(DIM, np.float32), r"float32 of shape \(24,\)"),
    (np.ones((3, DIM), np.int32), "int32 of shape"),
  ],
)
def test_bad_question_vectors_are_refused(tmp_path, array, message):
  np.save(tmp_path / "q.npy", array)
  with pytest.raises(InputError, match=message):
    read_tuning_queries(tmp_path / "q.npy", dim=DIM, num_queries=9, seed=0)


def test_pickled_question_vectors_are_refused(tmp_path):
  np.save(tmp_path / "q.npy", np.array([{}]), allow_pickle=True)
  with pytest.raises(InputError, match=r"not a \.npy file"):
    read_tuning_queries(tmp_path / "q.npy", dim=DIM, num_queries=9, seed=0)


def test_tuning_finds_the_least_leaves_that_suffice(store, tmp_path):
  corpus = clustered(1500, seed=0)
  np.save(tmp_path / "v.npy", corpus)
  queries = clustered(100, seed=5)
  exact = _exact(store, queries, 10)
  with ScannIndex.build(tmp_path / "v.npy") as index:
    tuned = tune_parameters(
      index, queries, exact, target_index_recall=0.9, num_reordered=1500
    )

    def recall(leaves, candidates=1500):
      found = index.search(
        queries, 10, num_leaves_to_search=leaves, num_reordered=candidates
      )
      return measure_index_recall(found, exact)

    least = next(n for n in range(1, 40) if recall(n) >= 0.9)
    assert tuned.num_leaves_to_search == least
    assert tuned.num_reordered == 1500
    fixed = tune_parameters(
      index, queries, exact, target_index_recall=0.9, num_leaves_to_search=39
    )
    assert fixed.num_leaves_to_search == 39
    assert recall(39, fixed.num_reordered) >= 0.9
    hopeless = tune_parameters(
      index, queries, exact, target_index_recall=1.0, num_leaves_to_search=1
    )
    assert hopeless.num_leaves_to_search == 1
    assert hopeless.num_reordered == 1500


def test_augmented_view_is_tuned_on_augmented_vectors(store):
  view = AugmentedView(
    open_store(store), Augmentation(reduction="sum", alpha=0.9)
  )
  queries = make_tuning_queries(view, num_queries=100, seed=0)
  base = make_tuning_queries(open_view(store), num_queries=100, seed=0)
  assert np.abs(queries - base).max() > 0.1
