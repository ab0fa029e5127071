"""ScaNN in its process: recall, damage, and requests it refuses."""

import dataclasses
import io
import os
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest

from xqg_jax.errors import InputError
from xqg_jax.indexes.exact.search import search_exact
from xqg_jax.indexes.scann import worker
from xqg_jax.indexes.scann.index import (
  MIN_VECTORS,
  ScannIndex,
  ScannParameters,
  derive_parameters,
  write_vectors,
)
from xqg_jax.indexes.scann.process import ScannError

DIM = 32


def clustered(n, *, seed=0, dim=DIM):
  """Unit vectors around forty centres."""
  rng = np.random.default_rng(seed)
  centres = np.random.default_rng(99).standard_normal((40, dim))
  x = centres[rng.integers(0, 40, n)] + 0.7 * rng.standard_normal((n, dim))
  return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


CORPUS = clustered(2000)
QUERIES = clustered(40, seed=1)
EXACT = search_exact(QUERIES, [(0, CORPUS)], 10)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
  path = tmp_path_factory.mktemp("vectors") / "v.npy"
  np.save(path, CORPUS)
  with ScannIndex.build(path) as index:
    yield index


@pytest.fixture
def saved(built, tmp_path):
  folder = tmp_path / "assets"
  return folder, {
    "checksums": built.save(folder),
    "num_vectors": built.num_vectors,
    "dim": built.dim,
    "parameters": built.parameters,
  }


def _recall(rows, exact_rows):
  pairs = zip(rows, exact_rows, strict=True)
  return np.mean([len(set(a) & set(b)) / len(b) for a, b in pairs])


def test_all_leaves_and_candidates_equal_brute_force(built):
  scores, rows = built.search(
    QUERIES, 10, num_leaves_to_search=45, num_reordered=2000
  )
  assert scores.dtype == np.float32
  assert rows.dtype == np.int32
  np.testing.assert_array_equal(rows, EXACT[1])
  np.testing.assert_allclose(scores, EXACT[0], atol=1e-6)


def test_more_leaves_find_more(built):
  recalls = [
    _recall(built.search(QUERIES, 10, num_leaves_to_search=n)[1], EXACT[1])
    for n in (1, 4, 16, 45)
  ]
  assert recalls == sorted(recalls)
  assert recalls[0] < 0.6
  assert recalls[-1] > 0.97


def test_k_above_the_corpus_gives_every_row_once(built):
  scores, rows = built.search(
    QUERIES[:2], 5000, num_leaves_to_search=45, num_reordered=5000
  )
  assert scores.shape == rows.shape == (2, 2000)
  assert np.sort(rows, axis=1).tolist() == [list(range(2000))] * 2


def test_places_that_few_leaves_cannot_fill_are_marked(built):
  scores, rows = built.search(
    QUERIES, 1000, num_leaves_to_search=1, num_reordered=1000
  )
  is_empty = rows == -1
  assert is_empty.any(axis=1).all()
  assert (scores[is_empty] == -np.inf).all()
  assert np.isfinite(scores[~is_empty]).all()
  for query_rows in rows:
    found = query_rows[query_rows >= 0]
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(
  ("queries", "k", "message"),
  [
    (np.full((2, DIM), np.nan, np.float32), 1, "query 0 holds NaN"),
    (np.full((2, DIM), np.inf, np.float32), 1, "query 0 holds NaN or inf"),
    (np.ones((2, 7), np.float32), 1, "queries have 7 dimensions"),
    (np.ones((0, DIM), np.float32), 1, "no queries"),
    (np.ones((2, DIM), np.float32), 0, "k is 0"),
  ],
)
def test_unusable_queries_are_refused(built, queries, k, message):
  with pytest.raises(InputError, match=message):
    built.search(queries, k)


def test_loaded_index_finds_the_same(built, saved):
  folder, arguments = saved
  with ScannIndex.load(folder, **arguments) as index:
    for expected, found in zip(
      built.search(QUERIES, 10), index.search(QUERIES, 10), strict=True
    ):
      np.testing.assert_array_equal(found, expected)


def test_two_builds_have_the_same_bytes(saved, tmp_path):
  np.save(tmp_path / "v.npy", CORPUS)
  with ScannIndex.build(tmp_path / "v.npy", num_threads=1) as index:
    assert index.save(tmp_path / "again") == saved[1]["checksums"]


def test_only_known_files_without_pickle_are_written(saved):
  folder, arguments = saved
  names = {path.name for path in folder.iterdir()}
  assert names == set(arguments["checksums"])
  assert {path.rpartition(".")[2] for path in names} == {"npy", "pb", "pbtxt"}
  assert str(folder) not in (folder / "scann_assets.pbtxt").read_text()


ASSETS = (
  "ah_codebook.pb",
  "dataset.npy",
  "datapoint_to_token.npy",
  "hashed_dataset.npy",
  "scann_assets.pbtxt",
  "scann_config.pb",
  "serialized_partitioner.pb",
)


@pytest.mark.parametrize("name", ASSETS)
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damaged_assets_are_refused_by_name(saved, name, damage):
  folder, arguments = saved
  content = bytearray((folder / name).read_bytes())
  if damage == "flip":
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
  elif damage == "cut":
    (folder / name).write_bytes(content[:-1])
  else:
    (folder / name).unlink()
  message = "is missing" if damage == "remove" else "was changed or cut"
  with pytest.raises(InputError, match=message) as error:
    ScannIndex.load(folder, **arguments)
  assert str(folder / name) in str(error.value)


def test_a_pickle_beside_the_assets_is_refused(saved):
  folder, arguments = saved
  (folder / "scann_docids.pkl").write_bytes(b"cos\nsystem\n(S'exit'\ntR.")
  with pytest.raises(InputError, match="does not belong to the index"):
    ScannIndex.load(folder, **arguments)


@pytest.mark.parametrize(("n", "leaves"), [(199, 5), (300, 301)])
def test_too_few_vectors_are_refused(tmp_path, n, leaves):
  np.save(tmp_path / "v.npy", CORPUS[:n])
  parameters = dataclasses.replace(derive_parameters(n), num_leaves=leaves)
  with pytest.raises(InputError, match=f"{n} vectors are too few"):
    ScannIndex.build(tmp_path / "v.npy", parameters)


def test_smallest_index_is_exact_with_all_leaves(tmp_path):
  corpus = clustered(MIN_VECTORS, dim=7)
  np.save(tmp_path / "v.npy", corpus)
  queries = clustered(5, seed=3, dim=7)
  with ScannIndex.build(tmp_path / "v.npy") as index:
    _, rows = index.search(
      queries, 10, num_leaves_to_search=14, num_reordered=200
    )
  expected = search_exact(queries, [(0, corpus)], 10)[1]
  np.testing.assert_array_equal(rows, expected)


def test_parameters_follow_the_size():
  assert derive_parameters(10_000) == ScannParameters(
    num_leaves=100,
    num_leaves_to_search=12,
    num_reordered=200,
    training_sample_size=10_000,
  )
  wikipedia = derive_parameters(18_200_000, k=500)
  assert wikipedia.num_leaves == 4266
  assert wikipedia.num_reordered == 1000
  assert wikipedia.training_sample_size == 170_640
  assert derive_parameters(3).num_leaves_to_search == 1
  with pytest.raises(InputError, match="num_leaves is 11 for 10 passages"):
    derive_parameters(10, num_leaves=11)


# ----------------------------------------------------------------- the process


@pytest.mark.parametrize("name", ["SIGABRT", "SIGSEGV", "SIGKILL"])
def test_the_end_of_the_process_becomes_an_error(saved, name):
  folder, arguments = saved
  with ScannIndex.load(folder, **arguments) as index:
    os.kill(index.worker_pid, signal.Signals[name])
    with pytest.raises(ScannError, match=f"ended \\({name}\\) during search"):
      index.search(QUERIES, 10)


def test_the_last_words_of_native_code_are_told(tmp_path, monkeypatch):
  script = tmp_path / "worker.py"
  script.write_text(
    "import os, sys\n"
    "print('F0000 check failed: centroids', file=sys.stderr, flush=True)\n"
    "sys.stdin.buffer.read(8)\n"
    "os.abort()\n"
  )
  monkeypatch.setattr(worker, "__file__", str(script))
  np.save(tmp_path / "v.npy", CORPUS[:300])
  with pytest.raises(ScannError, match=r"SIGABRT.*build.*check failed: centr"):
    ScannIndex.build(tmp_path / "v.npy")


def test_a_missing_scann_is_told_with_the_way_out(tmp_path, monkeypatch):
  (tmp_path / "scann.py").write_text("raise ImportError('no wheel')")
  monkeypatch.setenv("PYTHONPATH", str(tmp_path))
  np.save(tmp_path / "v.npy", CORPUS[:300])
  with pytest.raises(InputError, match=r'cannot be loaded.*kind="exact"') as e:
    ScannIndex.build(tmp_path / "v.npy")
  assert "no wheel" in str(e.value)


def test_errors_of_scann_reach_the_caller_and_the_process_lives(built):
  _, before = built.search(QUERIES, 1)
  with pytest.raises(ScannError, match="could not save: RuntimeError"):
    built._worker.call("save", folder="/dev/null/nowhere")
  np.testing.assert_array_equal(built.search(QUERIES, 1)[1], before)


def test_a_closed_index_is_refused_and_its_process_gone(saved):
  folder, arguments = saved
  with ScannIndex.load(folder, **arguments) as index:
    pid = index.worker_pid
  with pytest.raises(ScannError, match="is closed"):
    index.search(QUERIES, 1)
  with pytest.raises(ProcessLookupError):
    os.kill(pid, 0)


def test_the_caller_imports_neither_scann_nor_tensorflow():
  code = (
    "import sys; import xqg_jax.indexes.scann.index as s; "
    "assert not {'scann', 'tensorflow'} & set(sys.modules)"
  )
  subprocess.run([sys.executable, "-c", code], check=True)


def test_vectors_are_written_in_blocks_and_checked(tmp_path):
  path = tmp_path / "v.npy"
  blocks = [(0, CORPUS[:3]), (3, CORPUS[3:5])]
  write_vectors(path, blocks, num_vectors=5, dim=DIM)
  np.testing.assert_array_equal(np.load(path), CORPUS[:5])
  bad = CORPUS[:3].copy()
  bad[1, 2] = np.nan
  with pytest.raises(InputError, match="passage 4 holds NaN or infinity"):
    write_vectors(path, [(0, CORPUS[:3]), (3, bad)], num_vectors=6, dim=DIM)


def test_a_full_disk_is_one_line(tmp_path):
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
  try:
    with pytest.raises(InputError, match=r"v.npy: cannot be written.*room"):
      write_vectors(
        tmp_path / "v.npy", [(0, CORPUS)], num_vectors=len(CORPUS), dim=DIM
      )
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_messages_round_trip_and_hold_no_pickle():
  pipe = io.BytesIO()
  arrays = [np.arange(6).reshape(2, 3), np.ones(2, np.float32)]
  worker.write_message(pipe, {"action": "x"}, arrays)
  pipe.seek(0)
  header, back = worker.read_message(pipe)
  assert header == {"action": "x", "num_arrays": 2}
  for expected, found in zip(arrays, back, strict=True):
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == expected.dtype
  with pytest.raises(EOFError):
    worker.read_message(pipe)
  with pytest.raises(ValueError, match="allow_pickle"):
    worker.write_message(pipe, {}, [np.array([{}])])


def test_a_message_that_is_cut_off_is_an_end_of_file():
  pipe = io.BytesIO()
  worker.write_message(pipe, {}, [np.ones(9)])
  for length in (3, 12, 60, len(pipe.getvalue()) - 1):
    with pytest.raises(EOFError):
      worker.read_message(io.BytesIO(pipe.getvalue()[:length]))
