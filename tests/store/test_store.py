"""The store: what is written comes back, and damage never goes unseen."""

import json
import time

import ml_dtypes
import numpy as np
import pytest

from tests.helpers import tiny_store
from tests.helpers.tiny_store import read_record
from xqg_jax.errors import InputError
from xqg_jax.io import claims
from xqg_jax.store import shards, store

DIM = 6
GROUPS = [{"language": "ar", "rank": None}, {"language": "fi", "rank": None}]


def make_arrays(rows, *, seed=0, with_queries=True):
  rng = np.random.default_rng(seed)
  return shards.ShardArrays(
    passage_ids=[f"p{seed}-{i}" for i in range(rows)],
    passages=rng.normal(size=(rows, DIM)).astype(np.float32),
    query_sums=rng.normal(size=(rows, 2, DIM)).astype(np.float32)
    if with_queries
    else None,
    query_counts=rng.integers(0, 5, size=(rows, 2)).astype(np.int32)
    if with_queries
    else None,
  )


def write_store(folder, parts, *, dtype="float32"):
  tiny_store.write_store(
    folder,
    *parts,
    groups=GROUPS if parts[0].query_sums is not None else [],
    encoder="e" * 64,
    dtype=dtype,
    inputs={"passages.tsv": "f" * 64},
  )
  return store.open_store(folder)


def write_shard(folder, arrays, *, dtype):
  shards.write_shards(folder, lambda: [arrays], dtype=dtype, task="write")


@pytest.mark.parametrize(
  ("dtype", "numpy_dtype"),
  [
    ("float32", np.float32),
    ("float16", np.float16),
    ("bfloat16", ml_dtypes.bfloat16),
  ],
)
def test_round_trip(tmp_path, dtype, numpy_dtype):
  parts = [make_arrays(5, seed=0), make_arrays(3, seed=1)]
  opened = write_store(tmp_path / "store", parts, dtype=dtype)
  opened.verify()
  assert (opened.num_passages, opened.dim) == (8, DIM)
  assert opened.groups == GROUPS
  assert opened.encoder_fingerprint == "e" * 64
  assert opened.passage_ids == [*parts[0].passage_ids, *parts[1].passage_ids]
  (block,) = opened.blocks(100)
  for name in ("passages", "query_sums"):
    whole = np.concatenate([getattr(part, name) for part in parts])
    expected = whole.astype(numpy_dtype).astype(np.float32)
    got = getattr(block, name)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, expected)
  counts = np.concatenate([part.query_counts for part in parts])
  np.testing.assert_array_equal(block.query_counts, counts)
  np.testing.assert_array_equal(
    np.concatenate(list(opened.query_counts())), counts
  )


@pytest.mark.parametrize("block_size", [1, 2, 3, 4, 7, 9, 50])
def test_blocks_have_the_size_asked_for(tmp_path, block_size):
  parts = [make_arrays(4, seed=0), make_arrays(4, seed=1), make_arrays(1)]
  opened = write_store(tmp_path / "store", parts)
  blocks = list(opened.blocks(block_size))
  assert [b.start for b in blocks] == list(range(0, 9, block_size))
  assert all(len(b.passages) == block_size for b in blocks[:-1])
  for name in ("passages", "query_sums", "query_counts"):
    np.testing.assert_array_equal(
      np.concatenate([getattr(b, name) for b in blocks]),
      np.concatenate([getattr(p, name) for p in parts]),
    )


def test_store_without_queries(tmp_path):
  opened = write_store(tmp_path / "store", [make_arrays(3, with_queries=False)])
  (block,) = opened.blocks(10)
  assert opened.groups == []
  assert block.query_sums is None
  assert block.query_counts is None


def test_queries_are_read_only_when_needed(tmp_path):
  opened = write_store(tmp_path / "store", [make_arrays(3)])
  (block,) = opened.blocks(10, use_queries=False)
  assert block.query_sums is None


def test_zarr3_readers_see_plain_arrays(tmp_path):
  write_store(tmp_path / "store", [make_arrays(3)])
  folder = tmp_path / "store" / "shard-00000" / "passages"
  metadata = json.loads((folder / "zarr.json").read_text())
  assert metadata["zarr_format"] == 3
  assert metadata["shape"] == [3, DIM]
  raw = np.frombuffer((folder / "c" / "0" / "0").read_bytes(), np.float32)
  np.testing.assert_array_equal(raw.reshape(3, DIM), make_arrays(3).passages)


def test_same_input_same_bytes(tmp_path):
  for name in ("a", "b"):
    write_store(tmp_path / name, [make_arrays(4), make_arrays(2, seed=1)])
  first, second = (
    {
      str(p.relative_to(tmp_path / name)): p.read_bytes()
      for p in (tmp_path / name).rglob("*")
      if p.is_file()
    }
    for name in ("a", "b")
  )
  assert first == second


def test_fingerprint_follows_the_values(tmp_path):
  one = write_store(tmp_path / "a", [make_arrays(4)])
  same = write_store(tmp_path / "b", [make_arrays(4)])
  other = write_store(tmp_path / "c", [make_arrays(4, seed=2)])
  assert one.fingerprint == same.fingerprint != other.fingerprint


def test_large_arrays_are_cut_into_chunks(tmp_path, monkeypatch):
  monkeypatch.setattr(shards, "_CHUNK_BYTES", 2 * DIM * 4)
  opened = write_store(tmp_path / "store", [make_arrays(5)])
  chunks = tmp_path / "store" / "shard-00000" / "passages" / "c"
  assert sorted(p.name for p in chunks.iterdir()) == ["0", "1", "2"]
  opened.verify()


# --------------------------------------------------------------------- damage


def flip_bit(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(bytes(data))


def cut_off(path):
  path.write_bytes(path.read_bytes()[:-3])


def remove(path):
  path.unlink()


@pytest.mark.parametrize("harm", [flip_bit, cut_off, remove])
@pytest.mark.parametrize(
  "name",
  ["passages/c/0/0", "query_sums/c/0/0/0", "query_counts/c/0/0"],
)
def test_damaged_arrays_are_found(tmp_path, harm, name):
  opened = write_store(tmp_path / "store", [make_arrays(4), make_arrays(3)])
  harm(tmp_path / "store" / "shard-00001" / name)
  with pytest.raises(InputError, match=r"shard-00001/.*encode command again"):
    opened.verify()
  with pytest.raises(InputError, match="shard-00001"):
    list(opened.blocks(2))
  assert read_record(tmp_path / "store", 1) is None
  assert read_record(tmp_path / "store", 0)["rows"] == 4


@pytest.mark.parametrize("harm", [flip_bit, cut_off, remove])
def test_damaged_ids_are_found(tmp_path, harm):
  opened = write_store(tmp_path / "store", [make_arrays(4)])
  harm(tmp_path / "store" / "shard-00000" / "passage_ids.txt")
  with pytest.raises(InputError, match="passage_ids"):
    opened.verify()
  with pytest.raises(InputError, match="passage_ids"):
    _ = opened.passage_ids


@pytest.mark.parametrize("rows", [3, 5])
def test_a_wrong_number_of_rows_is_found(tmp_path, rows):
  folder = tmp_path / "store"
  write_store(folder, [make_arrays(4)])
  record_file = folder / "finished" / "shard-00000.json"
  record = json.loads(record_file.read_text())
  record_file.write_text(json.dumps(record | {"rows": rows}))
  assert read_record(folder, 0) is None
  manifest_file = folder / "manifest.json"
  manifest = json.loads(manifest_file.read_text())
  manifest_file.write_text(json.dumps(manifest | {"num_passages": rows}))
  with pytest.raises(InputError, match=f"{rows} passages, and 4 in shards"):
    store.open_store(folder)
  manifest["shards"][0]["rows"] = rows
  manifest_file.write_text(json.dumps(manifest | {"num_passages": rows}))
  with pytest.raises(InputError, match=f"4 rows instead of {rows}"):
    store.open_store(folder).verify()


def test_damaged_shard_record_counts_as_absent(tmp_path):
  write_store(tmp_path / "store", [make_arrays(4)])
  (tmp_path / "store" / "finished" / "shard-00000.json").write_text("{")
  assert read_record(tmp_path / "store", 0) is None


def test_checksum_is_compared_only_once(tmp_path, monkeypatch):
  opened = write_store(tmp_path / "store", [make_arrays(4)])
  seen = []
  digest = shards._array_digest
  monkeypatch.setattr(
    shards, "_array_digest", lambda a: seen.append(1) or digest(a)
  )
  for _ in range(3):
    list(opened.blocks(10, use_queries=False))
  assert len(seen) == 1


def test_unfinished_store_is_refused(tmp_path):
  write_store(tmp_path / "store", [make_arrays(4)])
  (tmp_path / "store" / "manifest.json").unlink()
  with pytest.raises(InputError, match="run the same encode command again"):
    store.open_store(tmp_path / "store")
  with pytest.raises(InputError, match="no such folder"):
    store.open_store(tmp_path / "nowhere")


def test_other_format_is_refused(tmp_path):
  write_store(tmp_path / "store", [make_arrays(4)])
  (tmp_path / "store" / "manifest.json").write_text('{"format_version": 99}')
  with pytest.raises(InputError, match="format version 1"):
    store.open_store(tmp_path / "store")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["passages", "query_sums"])
def test_values_that_are_not_finite_are_refused(tmp_path, bad, name):
  arrays = make_arrays(4)
  getattr(arrays, name)[2, ..., 1] = bad
  with pytest.raises(InputError, match=r"'p0-2' is not finite; .*NaN"):
    write_shard(tmp_path, arrays, dtype="float32")
  assert list(tmp_path.iterdir()) == []


def test_overflow_of_the_dtype_is_refused(tmp_path):
  arrays = make_arrays(4)
  arrays.passages[3, 0] = 1e6
  with pytest.raises(InputError, match=r"'p0-3' .*too large for float16"):
    write_shard(tmp_path, arrays, dtype="float16")
  write_shard(tmp_path, arrays, dtype="bfloat16")


@pytest.mark.parametrize("bad", ["", "a\nb", "a\n", "a\r"])
def test_ids_that_are_no_line_are_refused(tmp_path, bad):
  arrays = make_arrays(2)
  arrays.passage_ids[1] = bad
  with pytest.raises(InputError, match="line break"):
    write_shard(tmp_path, arrays, dtype="float32")


def test_ids_with_odd_characters_survive(tmp_path):
  arrays = make_arrays(2)
  arrays.passage_ids[:] = ["a\u2028b\x85", " c\t\x0b"]
  opened = write_store(tmp_path / "store", [arrays])
  assert opened.passage_ids == ["a\u2028b\x85", " c\t\x0b"]


def test_lock_refuses_a_second_writer(tmp_path):
  with claims.lock_folder(tmp_path):
    with pytest.raises(InputError, match="another process"):
      with claims.lock_folder(tmp_path):
        pass
  with claims.lock_folder(tmp_path):
    pass


def test_opening_reads_no_arrays(tmp_path):
  write_store(tmp_path / "store", [make_arrays(4)])
  (tmp_path / "store" / "shard-00000" / "passages" / "zarr.json").unlink()
  start = time.perf_counter()
  opened = store.open_store(tmp_path / "store")
  assert opened.num_passages == 4
  assert time.perf_counter() - start < 0.1
