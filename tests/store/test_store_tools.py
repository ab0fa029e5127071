"""`xqg store`: verified, described, exported, imported; stores in buckets."""

import errno
import json
import pickle
import re
import struct
import subprocess
import sys

import numpy as np
import pytest
from test_store import DIM, GROUPS, flip_bit, make_arrays, write_store

from tests.helpers import tiny_store
from tests.helpers.documentation import ROOT
from tests.helpers.tiny_dual_encoder import make_encoder
from xqg_jax.augmentation.views import open_view
from xqg_jax.cli import main
from xqg_jax.errors import InputError
from xqg_jax.indexes.kinds import check_encoder
from xqg_jax.io.claims import lock_folder
from xqg_jax.io.files import read_json
from xqg_jax.io.locations import Location
from xqg_jax.stages.augment import augment
from xqg_jax.stages.index import build_index
from xqg_jax.stages.store_export import export_store
from xqg_jax.stages.store_import import import_vectors
from xqg_jax.stages.store_info import describe_store
from xqg_jax.stages.store_verify import verify_store
from xqg_jax.store import store

PARTS = [make_arrays(4), make_arrays(3, seed=1)]


@pytest.fixture
def folder(tmp_path):
  write_store(tmp_path / "store", PARTS)
  return tmp_path / "store"


def read_all(path):
  return np.concatenate([vectors for _, vectors in open_view(path).blocks(3)])


# ------------------------------------------------------------ verify and info


def test_verify_names_every_damaged_part(folder, capsys):
  verify_store(store=folder)
  assert "7 passages, all sound" in capsys.readouterr().out
  for shard in ("shard-00000", "shard-00001"):
    flip_bit(folder / shard / "passages" / "c" / "0" / "0")
  with pytest.raises(InputError, match=r"2 damaged parts.*shard-00000/passag"):
    verify_store(store=folder)
  told = capsys.readouterr().err
  assert "shard-00000/passages: differs from its checksum" in told
  assert "shard-00001/passages: differs from its checksum" in told


def test_verify_counts_rows(folder):
  manifest = json.loads((folder / "manifest.json").read_text())
  manifest["shards"][1]["rows"] = 5
  for count, message in ((7, "7 passages, and 9 in"), (9, "3 rows instead of")):
    manifest["num_passages"] = count
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=message):
      verify_store(store=folder)


def test_info(folder, capsys):
  described = describe_store(store=folder)
  assert described["num_passages"] == 7
  assert described["num_shards"] == 2
  assert described["vector_bytes"] == 7 * 3 * DIM * 4
  told = capsys.readouterr().out
  assert "504 bytes" in told
  assert "ar; fi" in told


def test_two_words_are_one_verb(folder, tmp_path, capsys):
  assert main.main(["store", "info", f"--gin.STORE={folder}"]) == 0
  assert "num_passages  7" in capsys.readouterr().out
  flip_bit(folder / "shard-00000" / "query_sums" / "c" / "0" / "0" / "0")
  assert main.main(["store", "verify", f"--gin.STORE={folder}"]) == 2
  assert "xqg: error: " in capsys.readouterr().err
  assert main.main(["store", "info", "--gin.STORE=nowhere"]) == 2


def test_a_full_disk_is_one_line(folder, monkeypatch, capsys):
  def fill(**_):
    raise OSError(errno.ENOSPC, "No space left on device", "out/x")

  monkeypatch.setattr(main, "run_stage", lambda *_, **__: fill())
  assert main.main(["store", "info", f"--gin.STORE={folder}"]) == 2
  assert capsys.readouterr().err == (
    "xqg: error: out/x: cannot be written (No space left on device); make room "
    "and run the same command again\n"
  )


# --------------------------------------------------------------------- export


def test_numpy(folder, tmp_path):
  out = export_store(store=folder, output_dir=tmp_path / "out")
  vectors = np.load(out / "embeddings.npy", allow_pickle=False)
  assert vectors.dtype == np.float32
  np.testing.assert_array_equal(vectors, read_all(folder))
  ids = (out / "passage_ids.txt").read_text().splitlines()
  assert ids == store.open_store(folder).passage_ids


def test_an_export_says_its_metric_and_can_be_of_unit_length(folder, tmp_path):
  vectors = read_all(folder)
  lengths = np.linalg.norm(vectors, axis=1)
  whole = export_store(store=folder, output_dir=tmp_path / "whole")
  manifest = read_json(whole / "manifest.json")
  assert manifest["metric"] == "inner product"
  np.testing.assert_allclose(
    manifest["lengths"], [lengths.min(), lengths.max()], rtol=1e-6
  )
  unit = export_store(
    store=folder, output_dir=tmp_path / "unit", normalize=True
  )
  np.testing.assert_allclose(
    np.load(unit / "embeddings.npy"), vectors / lengths[:, None], rtol=1e-6
  )
  with pytest.raises(InputError, match="normalize"):
    export_store(store=folder, output_dir=tmp_path / "unit")


def test_a_damaged_export_is_told_of_and_made_again(folder, tmp_path, capsys):
  out = export_store(store=folder, output_dir=tmp_path / "out")
  before = {path.name: path.read_bytes() for path in out.iterdir()}
  (out / "embeddings.npy").write_bytes(before["embeddings.npy"][:-1])
  export_store(store=folder, output_dir=out)
  assert {path.name: path.read_bytes() for path in out.iterdir()} == before
  assert "store export: making it again: " in capsys.readouterr().err


def test_views_are_exported_augmented(folder, tmp_path):
  augment(
    store=folder, output_dir=tmp_path / "view", reduction="mean", alpha=0.3
  )
  export_store(store=tmp_path / "view", output_dir=tmp_path / "out")
  vectors = np.load(tmp_path / "out" / "embeddings.npy", allow_pickle=False)
  np.testing.assert_array_equal(vectors, read_all(tmp_path / "view"))
  assert np.abs(vectors - read_all(folder)).max() > 0.01


def test_faiss(folder, tmp_path):
  export_store(store=folder, output_dir=tmp_path / "out", format="faiss")
  content = (tmp_path / "out" / "embeddings.faiss").read_bytes()
  name, dim, count = struct.unpack_from("<4siq", content)
  assert (name, dim, count) == (b"IxFI", DIM, 7)
  flat = np.frombuffer(content[-7 * DIM * 4 :], np.float32)
  np.testing.assert_array_equal(flat.reshape(7, DIM), read_all(folder))


def test_faiss_opens_it(folder, tmp_path):
  faiss = pytest.importorskip("faiss")
  export_store(store=folder, output_dir=tmp_path / "out", format="faiss")
  index = faiss.read_index(str(tmp_path / "out" / "embeddings.faiss"))
  vectors = read_all(folder)
  scores, rows = index.search(vectors[:2], 3)
  expected = vectors[:2] @ vectors.T
  np.testing.assert_array_equal(rows, np.argsort(-expected)[:, :3])
  np.testing.assert_allclose(scores, -np.sort(-expected)[:, :3], rtol=1e-5)


def test_parquet_there_and_back(folder, tmp_path):
  pytest.importorskip("pyarrow")
  export_store(store=folder, output_dir=tmp_path / "out", format="parquet")
  again = import_vectors(
    vectors=tmp_path / "out", output_dir=tmp_path / "again", shard_size=2
  )
  assert [s["rows"] for s in again.manifest["shards"]] == [2, 2, 2, 1]
  assert again.passage_ids == store.open_store(folder).passage_ids
  np.testing.assert_array_equal(read_all(tmp_path / "again"), read_all(folder))
  with pytest.raises(InputError, match=r"no column 'vector'"):
    import_vectors(
      vectors=tmp_path / "out",
      output_dir=tmp_path / "other",
      vector_column="vector",
    )


def test_export_of_a_damaged_store_leaves_no_vectors(folder, tmp_path):
  flip_bit(folder / "shard-00001" / "passages" / "c" / "0" / "0")
  with pytest.raises(InputError, match="differs from its checksum"):
    export_store(store=folder, output_dir=tmp_path / "out")
  names = sorted(p.name for p in (tmp_path / "out").iterdir())
  assert names == [".lock", "run.json"]


def test_two_exports_into_one_folder(folder, tmp_path, monkeypatch):
  write = np.lib.format.write_array_header_1_0

  def start_another(file, header):
    monkeypatch.undo()
    with pytest.raises(InputError, match="another process is writing"):
      export_store(store=folder, output_dir=tmp_path / "out")
    write(file, header)

  monkeypatch.setattr(np.lib.format, "write_array_header_1_0", start_another)
  out = export_store(store=folder, output_dir=tmp_path / "out")
  assert len(np.load(out / "embeddings.npy")) == 7
  # What is finished needs no lock.
  with lock_folder(out):
    export_store(store=folder, output_dir=out)


def test_the_guides_line_for_tevatron_keeps_ids_with_blanks(tmp_path):
  vectors = np.ones((2, 3), np.float32)
  np.save(tmp_path / "embeddings.npy", vectors)
  (tmp_path / "passage_ids.txt").write_text("a b\nc\n")
  page = (ROOT / "docs" / "guide" / "encoding.md").read_text()
  command = re.search(r'python -c "(.*pickle\.dump.*)"', page).group(1)
  subprocess.run([sys.executable, "-c", command], cwd=tmp_path, check=True)
  _, ids = pickle.loads((tmp_path / "corpus.pkl").read_bytes())
  assert ids == ["a b", "c"]


# --------------------------------------------------------------------- import


def write_vectors(folder, vectors, ids):
  np.save(folder / "vectors.npy", vectors)
  (folder / "ids.txt").write_text("".join(f"{i}\n" for i in ids))
  return {
    "vectors": folder / "vectors.npy",
    "passage_ids": folder / "ids.txt",
    "output_dir": folder / "imported",
  }


def test_numpy_in(tmp_path):
  vectors = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float16)
  given = write_vectors(tmp_path, vectors, "abcde")
  opened = import_vectors(**given, shard_size=2)
  assert opened.passage_ids == list("abcde")
  assert (opened.dim, opened.encoder_fingerprint) == (3, "unknown")
  np.testing.assert_array_equal(read_all(tmp_path / "imported"), vectors)
  verify_store(store=tmp_path / "imported")


def test_vectors_of_an_unknown_encoder_are_told_at_once(tmp_path):
  given = write_vectors(tmp_path, np.ones((2, 3), np.float32), "ab")
  with pytest.warns(UserWarning, match="not searched with questions"):
    imported = import_vectors(**given)
  assert imported.passage_ids == ["a", "b"]
  index = build_index(
    embeddings=tmp_path / "imported", output_dir=tmp_path / "i", kind="exact"
  )
  with pytest.raises(InputError, match="imported without the encoder"):
    check_encoder(index, make_encoder())


def test_an_npz_is_no_pickle(tmp_path):
  np.savez(tmp_path / "v.npz", v=np.ones((2, 3), np.float32))
  with pytest.raises(InputError, match="npz holds several arrays"):
    import_vectors(vectors=tmp_path / "v.npz", output_dir=tmp_path / "out")


@pytest.mark.parametrize(
  ("vectors", "ids", "message"),
  [
    (np.ones((2, 3)), "abc", "3 ids for 2 vectors"),
    (np.ones((2, 3)), "aa", "'a' appears twice"),
    (np.ones((2, 3)), ("a", ""), "passage id '' is empty"),
    (np.ones(3), "abc", "is not a list of vectors"),
    (np.ones((2, 3), int), "ab", "int64 is not a list of vectors"),
    (np.array([[1.0], [np.nan]]), "ab", "vector 1 holds NaN or infinity"),
    (np.array([[None]], object), "a", "cannot be read"),
  ],
)
def test_bad_vectors(tmp_path, vectors, ids, message):
  given = write_vectors(tmp_path, vectors, ids)
  with pytest.raises(InputError, match=message):
    import_vectors(**given)
  # Nothing is claimed, so that mended files may go to the same folder.
  assert not (tmp_path / "imported").exists()


def test_missing_ids_are_one_line(tmp_path):
  given = write_vectors(tmp_path, np.ones((2, 3)), "ab")
  given["passage_ids"].unlink()
  with pytest.raises(InputError, match=r"ids\.txt: no such file"):
    import_vectors(**given)


@pytest.mark.parametrize(
  ("ids", "vectors", "message"),
  [
    (["a", None], [[1.0], [2.0]], "id of row 1, counted from 0, is None"),
    (["a", "b"], [[1.0], [2.0, 3.0, 4.0]], "all of one length"),
    (["a", "b"], [1.0, 2.0], "does not hold lists of numbers"),
    (["a", "b"], [["x"], ["y"]], "does not hold lists of numbers"),
    (["a", "c"], [[1.0], [None]], "vector 1 holds NaN"),
  ],
)
def test_bad_parquet(tmp_path, ids, vectors, message):
  write_parquet(tmp_path / "a.parquet", ids, vectors)
  with pytest.raises(InputError, match=message):
    import_vectors(vectors=tmp_path / "a.parquet", output_dir=tmp_path / "out")
  assert not (tmp_path / "out").exists()


def test_parquet_of_two_dimensions(tmp_path):
  write_parquet(tmp_path / "a.parquet", ["a"], [[1.0]])
  write_parquet(tmp_path / "b.parquet", [1], [[1.0, 2.0]])
  with pytest.raises(
    InputError,
    match=r"b\.parquet: vectors of 2 dimensions come after vectors of 1",
  ):
    import_vectors(vectors=tmp_path, output_dir=tmp_path / "out")


def write_parquet(path, ids, vectors):
  arrow = pytest.importorskip("pyarrow")
  parquet = pytest.importorskip("pyarrow.parquet")
  columns = {"passage_id": ids, "embedding": vectors}
  parquet.write_table(arrow.table(columns), path)


@pytest.mark.parametrize("name", ["corpus.pkl", "corpus", "corpus.npy"])
def test_pickles_are_refused_and_a_safe_way_told(tmp_path, name):
  class Trap:
    def __reduce__(self):
      return (open, (str(tmp_path / "sprung"), "w"))

  (tmp_path / name).write_bytes(pickle.dumps(Trap()))
  with pytest.raises(InputError, match=r"pickle.*numpy\.save") as error:
    import_vectors(vectors=tmp_path / name, output_dir=tmp_path / "out")
  assert "\n" not in str(error.value)
  assert not (tmp_path / "sprung").exists()
  assert not (tmp_path / "out").exists()


def test_a_folder_of_pickles_is_converted_as_told(tmp_path):
  pickles = tmp_path / "pickles"
  pickles.mkdir()
  for number in range(2):
    part = (np.full((1, 3), number, np.float32), [f"d-{number}"])
    (pickles / f"corpus.{number}.pkl").write_bytes(pickle.dumps(part))
  with pytest.raises(InputError, match="a pickle is not opened") as error:
    import_vectors(vectors=pickles, output_dir=tmp_path / "out")
  command = re.search(r'python -c "(.*)"', str(error.value)).group(1)
  subprocess.run([sys.executable, "-c", command], cwd=pickles, check=True)
  opened = import_vectors(
    vectors=pickles / "vectors.npy",
    passage_ids=pickles / "ids.txt",
    output_dir=tmp_path / "out",
  )
  assert opened.passage_ids == ["d-0", "d-1"]
  assert read_all(tmp_path / "out")[:, 0].tolist() == [0, 1]


# -------------------------------------------------------------------- buckets


def test_a_store_in_a_bucket(tmp_path):
  bucket = Location.of("memory://bucket/store")
  tiny_store.write_store(bucket, *PARTS, groups=GROUPS)
  first = tiny_store.read_record(bucket, 0)
  assert first["rows"] == len(PARTS[0].passages)
  opened = store.open_store("memory://bucket/store")
  verify_store(store="memory://bucket/store")
  expected = np.concatenate([part.passages for part in PARTS])
  (block,) = opened.blocks(10)
  np.testing.assert_array_equal(block.passages, expected)
  augment(
    store="memory://bucket/store",
    output_dir=tmp_path / "view",
    reduction="mean",
  )
  assert open_view(tmp_path / "view").num_passages == 7
  # Without its record a shard is not there, as after a kill.
  damaged = bucket / "shard-00001" / "passage_ids.txt"
  damaged.write_bytes(b"x\n")
  assert tiny_store.read_record(bucket, 1) is None
  assert tiny_store.read_record(bucket, 0) == first
  with pytest.raises(InputError, match=r"passage_ids.txt: is missing or diff"):
    opened.verify()
  with pytest.raises(InputError, match="no such folder"):
    store.open_store("memory://bucket/nothing")
