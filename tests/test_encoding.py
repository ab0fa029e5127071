"""The stage `encode` against texts encoded one by one."""

import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
import tiny_dual_encoder as tiny

from xqg_jax import encoding, encoding_job, shards
from xqg_jax.encoding import encode, encode_texts
from xqg_jax.errors import InputError
from xqg_jax.records import Passage

NUM_PASSAGES = 23
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
@pytest.mark.parametrize("group_by", [(), ("language",), ("language", "rank")])
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
  monkeypatch.setattr(encoding, "_TEXTS_PER_CHUNK", 8)
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

  def write_two(folder, index, arrays, *, dtype):
    if len(written) == 2:
      raise _Killed
    written.append(index)
    return shards.write_shard(folder, index, arrays, dtype=dtype)

  monkeypatch.setattr(encoding_job, "write_shard", write_two)
  with pytest.raises(_Killed):
    run(world, tmp_path / "cut")
  assert not (tmp_path / "cut" / "manifest.json").exists()
  written.clear()
  monkeypatch.setattr(
    encoding_job,
    "write_shard",
    lambda folder, index, *args, **options: (
      written.append(index)
      or shards.write_shard(folder, index, *args, **options)
    ),
  )
  run(world, tmp_path / "cut")
  assert written == [2]
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


# ----------------------------------------------------------------- bad input


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"group_queries_by": ("rank",)}, "cannot group queries by"),
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
  with pytest.raises(InputError, match=r"bad\.tsv:2: .*stands twice"):
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
  sum_texts = encoding_job.Embedder.sum_texts

  def spoil(self, batches, **options):
    return sum_texts(self, batches, **options).at[3].set(np.nan)

  monkeypatch.setattr(encoding_job.Embedder, "sum_texts", spoil)
  with pytest.raises(InputError, match=r"passage 'p3' is not finite"):
    run(world, tmp_path / "store")
  with pytest.raises(InputError, match="text 3 is not finite"):
    encode_texts(
      tiny.make_encoder(),
      tiny.make_texts(9, longest=3),
      side="passage",
      max_length=32,
    )
