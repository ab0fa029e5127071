"""The stage `encode` against texts encoded one by one."""

import dataclasses
import json
import os
import pathlib
import resource
import shutil
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import tiny_dual_encoder as tiny
from xqg_jax.augmentation.language_means import has_means, read_means
from xqg_jax.checkpoints import save_params
from xqg_jax.data.passages import Passage
from xqg_jax.encoding import job
from xqg_jax.encoding import texts as encoding_texts
from xqg_jax.encoding.embedder import Embedder
from xqg_jax.encoding.texts import encode_texts
from xqg_jax.errors import InputError
from xqg_jax.io.claims import lock_folder
from xqg_jax.io.locations import Location
from xqg_jax.models.bert.encoder import BertEncoder
from xqg_jax.stages import encode as encoding
from xqg_jax.stages.center import center
from xqg_jax.stages.encode import encode
from xqg_jax.store import shards

NUM_PASSAGES = 23
# For children that import this file.
PYTHONPATH = os.pathsep.join(
  str(pathlib.Path(__file__).parents[i]) for i in (0, 2)
)
PASSAGES = [
  Passage(f"p{i}", text, title="" if i % 3 else f"hill {i}")
  for i, text in enumerate(tiny.make_texts(NUM_PASSAGES, longest=40, seed=1))
]


def make_queries():
  """passage id -> language -> texts; some have none, some a blank one."""
  rng = np.random.default_rng(2)
  texts = iter(tiny.make_texts(500, longest=8, seed=3))
  queries = {}
  for i in range(0, NUM_PASSAGES, 2):
    queries[f"p{i}"] = {
      code: [next(texts) for _ in range(rng.integers(0, 4))]
      for code in ("ar", "fi", "te")
    }
  queries["p4"]["fi"] = ["red lake", "  ", "blue hill"]
  return queries


QUERIES = make_queries()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  folder = tmp_path_factory.mktemp("world")
  tiny.write_checkpoint(folder / "model")
  lines = [f"{p.passage_id}\t{p.text}\t{p.title}\n" for p in PASSAGES]
  (folder / "passages.tsv").write_text("".join(lines))
  for name, ids in (("queries", QUERIES), ("reverse", reversed(QUERIES))):
    with open(folder / f"{name}.jsonl", "w") as file:
      for i in ids:
        row = {"docid": i, "generated_queries": QUERIES[i]}
        file.write(json.dumps(row) + "\n")
  return folder


def run(world, output_dir, *, queries="queries", **options):
  options = {
    "checkpoint_path": world / "model",
    "shard_size": 8,
    "tokens_per_batch": 512,
  } | options
  return encode(
    passages=world / "passages.tsv",
    generated_queries=world / f"{queries}.jsonl" if queries else None,
    output_dir=output_dir,
    **options,
  )


def read(store):
  (block,) = store.blocks(1000)
  return block


@pytest.fixture(scope="module")
def reference():
  return embed_collection(tiny.make_encoder())


def embed_collection(encoder):
  """Vectors of passages, and (row, language, rank) and vector of queries."""
  passages = tiny.embed_one_by_one(
    encoder,
    [encoder.format_passage(p) for p in PASSAGES],
    encoder.config.passage_length,
  )
  keys, texts = [], []
  for row in range(NUM_PASSAGES):
    for code, group in QUERIES.get(f"p{row}", {}).items():
      for rank, text in enumerate(group, start=1):
        if text.strip():
          keys.append((row, code, rank))
          texts.append(encoder.format_query(text))
  vectors = tiny.embed_one_by_one(
    encoder, texts, encoder.config.query_length, "query"
  )
  return passages, list(zip(keys, vectors, strict=True))


def files_of(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in pathlib.Path(folder).rglob("*")
    if path.is_file()
  }


# --------------------------------------------------------------------- values


@pytest.mark.parametrize("queries", ["queries", "reverse"])
@pytest.mark.parametrize(
  "group_by", [(), ("language",), ("rank",), ("language", "rank")]
)
def test_vectors_and_sums(world, tmp_path, reference, queries, group_by):
  passages, by_query = reference
  store = run(
    world, tmp_path / "store", queries=queries, group_queries_by=group_by
  )
  block = read(store)
  np.testing.assert_allclose(block.passages, passages, atol=1e-5)
  assert store.passage_ids == [p.passage_id for p in PASSAGES]
  for g, group in enumerate(store.groups):
    for row in range(NUM_PASSAGES):
      members = [
        vector
        for (owner, code, rank), vector in by_query
        if owner == row
        and group["language"] in (None, code)
        and group["rank"] in (None, rank)
      ]
      assert block.query_counts[row, g] == len(members)
      expected = np.sum(members, axis=0) if members else np.zeros(store.dim)
      np.testing.assert_allclose(block.query_sums[row, g], expected, atol=2e-5)


@pytest.mark.parametrize(
  "options", [{}, {"shard_size": 100}, {"row_lengths": [64]}]
)
def test_the_means_of_the_queries_are_gathered(
  world, tmp_path, reference, options
):
  run(world, tmp_path / "store", **options)
  found = read_means(tmp_path / "store")
  by_language = {}
  for (_, code, _), vector in reference[1]:
    by_language.setdefault(code, []).append(vector)
  assert found.languages == tuple(sorted(by_language))
  for row, code in enumerate(found.languages):
    vectors = by_language[code]
    assert found.counts[row] == len(vectors)
    expected = np.mean(vectors, axis=0, dtype=np.float64)
    np.testing.assert_allclose(found.means[row], expected, atol=1e-5)
  assert found.encoder_fingerprint == tiny.make_encoder().fingerprint
  # `center` takes the same means of the same queries.
  taken = center(tiny.make_encoder(), world / "queries.jsonl")
  assert taken.counts.tolist() == found.counts.tolist()
  np.testing.assert_allclose(taken.means, found.means, atol=1e-6)


def test_no_means_without_queries(world, tmp_path):
  run(world, tmp_path / "store", queries=None)
  assert not has_means(tmp_path / "store")


@pytest.mark.parametrize("harm", ["damage", "remove"])
def test_a_shard_without_its_means_is_made_again(world, tmp_path, harm):
  run(world, tmp_path / "store")
  before = files_of(tmp_path / "store")
  (tmp_path / "store" / "manifest.json").unlink()
  means = tmp_path / "store" / "shard-00001" / "question_means.json"
  if harm == "remove":
    means.unlink()
  else:
    means.write_text(means.read_text().replace("1", "2"))
  run(world, tmp_path / "store")
  assert files_of(tmp_path / "store") == before


def test_separate_encoders_sum_vectors_of_the_query_side(
  world, tmp_path, reference
):
  config = dataclasses.replace(tiny.CONFIG, share_encoders=False)
  tiny.write_checkpoint(tmp_path / "model", config=config)
  store = run(
    world, tmp_path / "store", checkpoint_path=str(tmp_path / "model")
  )
  block = read(store)
  passages, by_query = embed_collection(tiny.make_encoder(config))
  np.testing.assert_allclose(block.passages, passages, atol=1e-5)
  expected = np.zeros((NUM_PASSAGES, store.dim))
  for (row, _, _), vector in by_query:
    expected[row] += vector
  np.testing.assert_allclose(block.query_sums[:, 0], expected, atol=2e-5)
  assert np.abs(passages - reference[0]).max() > 0.1
  alone = run(
    world, tmp_path / "alone", checkpoint_path=tmp_path / "model", queries=None
  )
  np.testing.assert_allclose(read(alone).passages, passages, atol=1e-5)


def test_groups_are_listed(world, tmp_path):
  store = run(world, tmp_path / "store", group_queries_by=["language", "rank"])
  assert store.groups == [
    {"language": code, "rank": rank}
    for code in ("ar", "fi", "te")
    for rank in (1, 2, 3)
  ]
  assert store.encoder_fingerprint == tiny.make_encoder().fingerprint


def test_without_generated_queries(world, tmp_path, reference):
  store = run(world, tmp_path / "store", queries=None)
  assert store.groups == []
  block = read(store)
  np.testing.assert_allclose(block.passages, reference[0], atol=1e-5)
  assert block.query_sums is None
  assert not (tmp_path / "store" / "shard-00000" / "query_sums").exists()


@pytest.mark.parametrize(
  "options",
  [
    {"shard_size": 100},
    {"shard_size": 5},
    {"tokens_per_batch": 2048},
    {"row_lengths": (32, 96)},
    {"row_lengths": (80,)},
  ],
)
def test_layout_does_not_matter(world, tmp_path, options):
  expected = read(run(world, tmp_path / "a"))
  got = read(run(world, tmp_path / "b", **options))
  np.testing.assert_allclose(got.passages, expected.passages, atol=1e-5)
  np.testing.assert_allclose(got.query_sums, expected.query_sums, atol=1e-5)
  np.testing.assert_array_equal(got.query_counts, expected.query_counts)


def test_number_of_devices_does_not_matter(world, tmp_path, monkeypatch):
  eight = read(run(world, tmp_path / "eight"))
  one_device = jax.local_devices()[:1]
  monkeypatch.setattr(jax, "local_devices", lambda: one_device)
  one = read(run(world, tmp_path / "one"))
  np.testing.assert_allclose(eight.passages, one.passages, atol=1e-6)
  np.testing.assert_allclose(eight.query_sums, one.query_sums, atol=1e-6)


@pytest.mark.parametrize(
  ("dtype", "tolerance"), [("float16", 1e-3), ("bfloat16", 8e-3)]
)
def test_dtypes_on_disk(world, tmp_path, reference, dtype, tolerance):
  block = read(run(world, tmp_path / "store", dtype=dtype))
  np.testing.assert_allclose(block.passages, reference[0], atol=tolerance)
  assert not np.array_equal(block.passages, reference[0])


# -------------------------------------------------------------- encode_texts


@pytest.mark.parametrize("count", [1, 2, 37])
def test_encode_texts_keeps_the_order(count):
  encoder = tiny.make_encoder()
  texts = tiny.make_texts(count, longest=30)
  got = encode_texts(encoder, texts, side="passage", max_length=48)
  assert got.dtype == np.float32
  expected = tiny.embed_one_by_one(encoder, texts, 48)
  np.testing.assert_allclose(got, expected, atol=1e-5)


def test_encode_texts_in_several_chunks(monkeypatch):
  monkeypatch.setattr(encoding_texts, "TEXTS_PER_CHUNK", 8)
  encoder = tiny.make_encoder()
  texts = tiny.make_texts(21, longest=30)
  got = encode_texts(encoder, texts, side="passage", max_length=48)
  expected = tiny.embed_one_by_one(encoder, texts, 48)
  np.testing.assert_allclose(got, expected, atol=1e-5)


def test_encode_no_texts():
  assert encode_texts(
    tiny.make_encoder(), [], side="query", max_length=32
  ).shape == (0, 16)


# --------------------------------------------------- interruption and damage


class _Killed(Exception):
  pass


def test_interrupted_run_ends_with_the_same_bytes(world, tmp_path, monkeypatch):
  run(world, tmp_path / "whole")
  written = []

  def write_two(place, arrays, *, dtype):
    if len(written) == 2:
      raise _Killed
    written.append(place.name)
    return write(place, arrays, dtype=dtype)

  write = shards.write_arrays
  monkeypatch.setattr(shards, "write_arrays", write_two)
  with pytest.raises(_Killed):
    run(world, tmp_path / "cut")
  assert not (tmp_path / "cut" / "manifest.json").exists()
  written.clear()
  run(world, tmp_path / "cut")
  assert written == [".shard-00002.partial"]
  assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")


def test_damaged_shard_is_made_again(world, tmp_path):
  run(world, tmp_path / "store")
  before = files_of(tmp_path / "store")
  chunk = tmp_path / "store" / "shard-00001" / "passages" / "c" / "0" / "0"
  chunk.write_bytes(b"\0" * chunk.stat().st_size)
  shutil.rmtree(tmp_path / "store" / "shard-00002")
  run(world, tmp_path / "store").verify()
  assert files_of(tmp_path / "store") == before


def test_finished_run_is_opened_without_work(world, tmp_path, monkeypatch):
  first = run(world, tmp_path / "store")
  monkeypatch.setattr(encoding, "EncodingJob", None)
  monkeypatch.setattr(encoding, "scan_collection", None)
  again = run(world, tmp_path / "store")
  assert again.fingerprint == first.fingerprint


def test_another_run_in_the_folder_is_refused(world, tmp_path):
  run(world, tmp_path / "store")
  with pytest.raises(InputError, match="another dtype"):
    run(world, tmp_path / "store", dtype="float16")
  with pytest.raises(InputError, match="another inputs"):
    run(world, tmp_path / "store", queries="reverse")


def test_kills_at_any_moment_end_with_the_same_bytes(world, tmp_path):
  """SIGKILL when the first shard is there, and half-way through the next."""
  run(world, tmp_path / "whole")
  script = (
    "import pathlib, sys, test_encoding as t\n"
    "t.run(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))"
  )
  folder = tmp_path / "killed"
  command = [sys.executable, "-c", script, str(world), str(folder)]
  env = os.environ | {"PYTHONPATH": PYTHONPATH}
  process = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL)
  while not list(folder.glob("shard-*")) and process.poll() is None:
    time.sleep(0.001)
  process.kill()
  process.wait()
  # What a kill in the middle of a shard leaves.
  shutil.copytree(folder / "shard-00000", folder / ".shard-00002.partial")
  (folder / ".shard-00002.partial" / "passage_ids.txt").unlink()
  run(world, folder)
  assert files_of(folder) == files_of(tmp_path / "whole")


@pytest.mark.parametrize("harm", ["truncated", "flipped", "missing"])
def test_a_bad_shard_of_a_finished_store_is_repaired(world, tmp_path, harm):
  run(world, tmp_path / "store")
  before = files_of(tmp_path / "store")
  shard = tmp_path / "store" / "shard-00001"
  chunk = shard / "query_sums" / "c" / "0" / "0" / "0"
  content = bytearray(chunk.read_bytes())
  content[len(content) // 3] ^= 16
  if harm == "truncated":
    chunk.write_bytes(content[:-5])
  elif harm == "flipped":
    chunk.write_bytes(content)
  else:
    chunk.unlink()
  run(world, tmp_path / "store")
  assert files_of(tmp_path / "store") == before


def test_two_writers_on_one_store(world, tmp_path):
  run(world, tmp_path / "store")
  (tmp_path / "store" / "manifest.json").unlink()
  with lock_folder(tmp_path / "store"):
    with pytest.raises(InputError, match="another process is writing"):
      run(world, tmp_path / "store")
  run(world, tmp_path / "store").verify()


def test_a_full_disk_is_one_line_and_mended_by_room(world, tmp_path):
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  options = {"shard_size": 23, "group_queries_by": ("language",)}
  run(world, tmp_path / "whole", **options)
  # Room for the small files, not for a shard's vectors.
  resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
  try:
    with pytest.raises(InputError, match=r"written.*make room") as error:
      run(world, tmp_path / "store", **options)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert "\n" not in str(error.value)
  assert not list((tmp_path / "store").glob("*shard*"))
  run(world, tmp_path / "store", **options)
  assert files_of(tmp_path / "store") == files_of(tmp_path / "whole")


def test_a_weight_that_is_nan_is_named(world, tmp_path):
  encoder = tiny.make_encoder()
  shutil.copytree(world / "model", tmp_path / "model")
  shutil.rmtree(tmp_path / "model" / "checkpoint_1")
  params = jax.tree.map(np.array, dict(encoder.params))
  params["encoder"]["layers_0"]["wi"]["kernel"][3, 4] = np.nan
  save_params(tmp_path / "model", 1, params)
  with pytest.raises(InputError, match=r"layers_0.*wi.*kernel"):
    run(world, tmp_path / "store", checkpoint_path=tmp_path / "model")
  assert not (tmp_path / "store").exists()


# --------------------------------------------------- buckets, bf16, processes


def test_a_store_in_a_bucket_resumes(world, tmp_path):
  local = run(world, tmp_path / "store", queries="reverse")
  first = run(world, "memory://encoding/store", queries="reverse")
  assert first.manifest == local.manifest
  shard = Location.of("memory://encoding/store/shard-00001")
  (shard / "passage_ids.txt").write_bytes(b"torn")
  again = run(world, "memory://encoding/store", queries="reverse")
  again.verify()
  assert again.manifest == local.manifest
  with pytest.raises(InputError, match="another dtype"):
    run(world, "memory://encoding/store", queries="reverse", dtype="float16")


def test_bfloat16_products_keep_the_direction(world, tmp_path, reference):
  store = run(world, tmp_path / "store", compute_dtype="bfloat16")
  passages = read(store).passages
  norms = np.linalg.norm(passages, axis=1) * np.linalg.norm(
    reference[0], axis=1
  )
  cosines = (passages * reference[0]).sum(axis=1) / norms
  assert 0.999 < cosines.min() < 1 - 1e-7
  assert store.manifest["encoder"]["compute_dtype"] == "bfloat16"


def test_rounding_kernels_beforehand_changes_nothing():
  encoder = dataclasses.replace(
    tiny.make_encoder(), module=BertEncoder(tiny.MODEL, jnp.bfloat16)
  )
  texts = tiny.make_texts(5, longest=20)
  got = encode_texts(encoder, texts, side="passage", max_length=48)
  rounded = jax.tree.leaves(Embedder(encoder)._params)
  assert {x.dtype.name for x in rounded} == {"float32", "bfloat16"}
  expected = tiny.embed_one_by_one(encoder, texts, 48)
  np.testing.assert_allclose(got, expected, atol=2e-2)


@pytest.mark.slow
def test_two_processes_write_the_bytes_of_one(world, tmp_path, monkeypatch):
  script = (
    "import sys, pathlib\n"
    "import test_encoding as t\n"
    "from xqg_jax.runtime import processes\n"
    "processes.join_processes(coordinator_address=sys.argv[3],"
    " num_processes=2, process_id=sys.argv[4])\n"
    "t.run(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))"
  )
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    address = f"localhost:{probe.getsockname()[1]}"
  # One device each: what adds several up differs among joined processes.
  env = os.environ | {
    "PYTHONPATH": PYTHONPATH,
    "XLA_FLAGS": "",
  }
  command = [sys.executable, "-c", script, str(world), str(tmp_path / "two")]
  both = [
    subprocess.Popen([*command, address, str(i)], env=env) for i in range(2)
  ]
  assert [process.wait(timeout=100) for process in both] == [0, 0]
  one_device = jax.local_devices()[:1]
  monkeypatch.setattr(jax, "local_devices", lambda: one_device)
  run(world, tmp_path / "one")
  two, one = (files_of(tmp_path / name) for name in ("two", "one"))
  assert two.pop(".lock-1") == b""
  assert two == one


# ----------------------------------------------------------------- bad input


def test_a_folder_of_passages_is_the_same_as_one_file(world, tmp_path):
  lines = (world / "passages.tsv").read_text().splitlines(keepends=True)
  folder = tmp_path / "passages"
  folder.mkdir()
  (folder / "a.tsv").write_text("".join(lines[:9]))
  (folder / "b.tsv").write_text("".join(lines[9:]))
  options = {"checkpoint_path": world / "model", "tokens_per_batch": 512}
  one, two = (
    encode(passages=passages, output_dir=tmp_path / name, **options)
    for name, passages in (("one", world / "passages.tsv"), ("two", folder))
  )
  assert two.manifest["shards"] == one.manifest["shards"]
  names = [file["name"] for file in two.manifest["inputs"]["passages"]]
  assert names == ["a.tsv", "b.tsv"]
  (folder / "b.tsv").write_text("".join(lines[9:]).swapcase())
  with pytest.raises(InputError, match="a run with another inputs"):
    encode(passages=folder, output_dir=tmp_path / "two", **options)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"group_queries_by": ("rank", "language")}, "cannot group queries by"),
    ({"shard_size": 0}, "shard_size is 0"),
    ({"queries": "missing"}, r"missing\.jsonl: no such file"),
  ],
)
def test_bad_options_leave_nothing_behind(world, tmp_path, options, message):
  with pytest.raises(InputError, match=message):
    run(world, tmp_path / "store", **options)
  assert not (tmp_path / "store").exists()


def test_bad_files_leave_nothing_behind(world, tmp_path):
  bad = tmp_path / "bad.tsv"
  bad.write_text("a\tone\tt\na\ttwo\tt\n")
  options = {
    "checkpoint_path": world / "model",
    "output_dir": tmp_path / "store",
  }
  with pytest.raises(InputError, match=r"bad\.tsv:2: .*appears twice"):
    encode(passages=bad, **options)
  with pytest.raises(InputError, match=r"queries\.jsonl:1: .*'p0'"):
    encode(
      passages=_write(tmp_path / "few.tsv", "p1\tone\tt\n"),
      generated_queries=world / "queries.jsonl",
      **options,
    )
  with pytest.raises(InputError, match=r"none\.tsv: no such file"):
    encode(passages=tmp_path / "none.tsv", **options)
  assert not (tmp_path / "store").exists()


def _write(path, text):
  path.write_text(text)
  return path


def test_embedding_that_is_not_finite_names_the_passage(
  world, tmp_path, monkeypatch
):
  sum_texts = job.Embedder.sum_texts
  sum_marked_texts = job.Embedder.sum_marked_texts

  def spoil(self, batches, **options):
    return sum_texts(self, batches, **options).at[3].set(np.nan)

  def spoil_marked(self, batches, **options):
    sums, mark_sums = sum_marked_texts(self, batches, **options)
    return sums.at[3].set(np.nan), mark_sums

  monkeypatch.setattr(job.Embedder, "sum_texts", spoil)
  monkeypatch.setattr(job.Embedder, "sum_marked_texts", spoil_marked)
  with pytest.raises(InputError, match=r"passage 'p3' is not finite"):
    run(world, tmp_path / "store")
  with pytest.raises(InputError, match="text 3 is not finite"):
    encode_texts(
      tiny.make_encoder(),
      tiny.make_texts(9, longest=3),
      side="passage",
      max_length=32,
    )
