"""Passages and generated queries side by side, in any order."""

import gzip
import json

import pytest

from xqg_jax.data import collection
from xqg_jax.errors import InputError

QUERIES = {
  "p0": {"ar": ["a0", "a1"], "fi": ["f0"]},
  "p2": {"fi": ["g0", "g1", "g2"]},
  "p3": {},
  "p6": {"ru": ["r0"]},
}


def write_passages(folder, count=7):
  path = folder / "passages.tsv"
  lines = [f"p{i}\ttext {i}\ttitle {i}\n" for i in range(count)]
  path.write_text("id\ttext\ttitle\n" + "".join(lines))
  return path


def write_queries(path, ids):
  lines = [
    json.dumps({"docid": i, "generated_queries": QUERIES.get(i, {})})
    for i in ids
  ]
  path.write_text("\n".join(lines) + "\n")
  return path


def read(scanned, folder, block_size):
  blocks = list(
    collection.read_blocks(
      scanned, block_size=block_size, scratch_dir=folder / "scratch"
    )
  )
  assert [b.index for b in blocks] == list(range(len(blocks)))
  assert all(len(b.passages) == block_size for b in blocks[:-1])
  assert not (folder / "scratch").exists()
  return {
    p.passage_id: {code: list(texts) for code, texts in q.items()}
    for b in blocks
    for p, q in zip(b.passages, b.queries, strict=True)
  }


EXPECTED = {f"p{i}": QUERIES.get(f"p{i}", {}) for i in range(7)}


@pytest.mark.parametrize("block_size", [1, 2, 3, 7, 100])
@pytest.mark.parametrize(
  ("order", "is_in_order"),
  [(["p0", "p2", "p3", "p6"], True), (["p6", "p0", "p3", "p2"], False)],
)
def test_any_order_and_block_size(tmp_path, block_size, order, is_in_order):
  queries = write_queries(tmp_path / "queries.jsonl", order)
  scanned = collection.scan_collection(write_passages(tmp_path), queries)
  assert scanned.is_in_order == is_in_order
  assert (scanned.num_passages, scanned.num_queries) == (7, 7)
  assert (scanned.languages, scanned.max_rank) == (("ar", "fi", "ru"), 3)
  assert read(scanned, tmp_path, block_size) == EXPECTED


def test_sorting_in_several_rounds(tmp_path, monkeypatch):
  monkeypatch.setattr(collection, "_MAX_WAITING", 1)
  queries = write_queries(tmp_path / "q.jsonl", ["p6", "p0", "p3", "p2"])
  scanned = collection.scan_collection(write_passages(tmp_path), queries)
  assert read(scanned, tmp_path, 2) == EXPECTED


def test_shards_of_a_folder(tmp_path):
  folder = tmp_path / "generated"
  folder.mkdir()
  for part, ids in enumerate((["p0", "p2"], ["p3", "p6"])):
    plain = write_queries(tmp_path / "plain.jsonl", ids).read_bytes()
    name = f"part-{part:05d}-of-00002.jsonl.gz"
    (folder / name).write_bytes(gzip.compress(plain))
  scanned = collection.scan_collection(write_passages(tmp_path), folder)
  assert scanned.is_in_order
  assert read(scanned, tmp_path, 3) == EXPECTED


def test_without_generated_queries(tmp_path):
  scanned = collection.scan_collection(write_passages(tmp_path))
  assert scanned == collection.Collection(
    tmp_path / "passages.tsv", None, num_passages=7
  )
  assert read(scanned, tmp_path, 4) == {f"p{i}": {} for i in range(7)}


@pytest.mark.parametrize(
  ("ids", "message"),
  [
    (["p0", "p9", "p6"], r"queries\.jsonl:2: .*'p9', which is not among"),
    (["p6", "p0", "nowhere"], r"queries\.jsonl:3: .*'nowhere'"),
    (["p0", "p2", "p0"], r"queries\.jsonl:3: .*'p0' appear twice"),
    (["p0", "p0"], r"queries\.jsonl:2: .*'p0' appear twice"),
  ],
)
def test_unknown_and_repeated_passages(tmp_path, ids, message):
  queries = write_queries(tmp_path / "queries.jsonl", ids)
  with pytest.raises(InputError, match=message):
    collection.scan_collection(write_passages(tmp_path), queries)


def test_what_is_wrong_at_the_end_is_found_before_encoding(tmp_path):
  passages = write_passages(tmp_path)
  with open(passages, "a") as file:
    file.write("no tab\n")
  queries = write_queries(tmp_path / "queries.jsonl", ["p0"])
  with pytest.raises(InputError, match=r"passages\.tsv:9"):
    collection.scan_collection(passages, queries)
