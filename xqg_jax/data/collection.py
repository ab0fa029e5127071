"""Streamed blocks of passages with their generated queries.

Generated queries may cover some of the passages only. Where they stand in the
order of the passages both files are read side by side; where they do not,
they are first sorted into one file per block.
"""

import collections
import dataclasses
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypedDict

from xqg_jax.data.generated_queries import (
  GeneratedQueries,
  read_generated_queries,
)
from xqg_jax.data.json_lines import write_json_line
from xqg_jax.data.passages import Passage, read_passages
from xqg_jax.errors import InputError
from xqg_jax.io.paths import Path
from xqg_jax.io.progress import Progress
from xqg_jax.io.typed_json import Count, decode_json

Queries = Mapping[str, Sequence[str]]

# Generated queries held in memory while they are sorted by block.
_MAX_WAITING = 100_000


@dataclasses.dataclass(frozen=True)
class Collection:
  """Input that was read once from end to end and has no defects.

  Attributes:
    passages: file or folder of the passages.
    generated_queries: file or folder of the generated queries, if any.
    num_passages: number of passages.
    num_queries: number of generated queries.
    languages: language codes of the generated queries, sorted.
    max_rank: the most queries of one passage in one language.
    is_in_order: whether the generated queries follow the passages' order.
  """

  passages: str | os.PathLike
  generated_queries: str | os.PathLike | None
  num_passages: int
  num_queries: int = 0
  languages: tuple[str, ...] = ()
  max_rank: int = 0
  is_in_order: bool = True


@dataclasses.dataclass(frozen=True)
class Block:
  """Consecutive passages; `queries` holds, for each, its texts by language."""

  index: int
  passages: list[Passage]
  queries: list[Queries]


# ----------------------------------------------------------------------- scan


class _QueryCounter:
  """Passes generated queries on and counts them."""

  def __init__(self):
    self.num_queries = 0
    self.max_rank = 0
    self.languages: set[str] = set()

  def count(
    self, items: Iterator[tuple[str, GeneratedQueries]]
  ) -> Iterator[tuple[str, GeneratedQueries]]:
    for where, item in items:
      for language, texts in item.queries.items():
        self.languages.add(language)
        self.num_queries += len(texts)
        self.max_rank = max(self.max_rank, len(texts))
      yield where, item


def scan_collection(
  passages: str | os.PathLike,
  generated_queries: str | os.PathLike | None = None,
) -> Collection:
  """Reads all input once, so that defects are found before any work.

  Raises:
    InputError: malformed input, generated queries for an unknown passage, or
      twice for one; the message names file and line.
  """
  num_passages = 0

  def read_ids() -> Iterator[str]:
    nonlocal num_passages
    progress = Progress(
      read_passages(passages), desc="check input", unit=" passages"
    )
    for passage in progress:
      num_passages += 1
      yield passage.passage_id

  ids = read_ids()
  if generated_queries is None:
    collections.deque(ids, maxlen=0)
    return Collection(passages, None, num_passages)
  counter = _QueryCounter()
  queries = counter.count(read_generated_queries(generated_queries))
  # `in` moves `ids` on, so this holds just when the order is the same.
  is_in_order = all(item.passage_id in ids for _, item in queries)
  collections.deque(ids, maxlen=0)
  if not is_in_order:
    counter = _QueryCounter()
    queries = counter.count(read_generated_queries(generated_queries))
    _check_known(_read_rows(passages), queries)
  return Collection(
    passages,
    generated_queries,
    num_passages,
    counter.num_queries,
    tuple(sorted(counter.languages)),
    counter.max_rank,
    is_in_order,
  )


def _read_rows(passages: str | os.PathLike) -> dict[str, int]:
  return {p.passage_id: row for row, p in enumerate(read_passages(passages))}


def _check_known(
  rows: Mapping[str, int], queries: Iterator[tuple[str, GeneratedQueries]]
) -> None:
  seen = bytearray(len(rows))
  for where, item in queries:
    row = rows.get(item.passage_id)
    if row is None:
      raise InputError(
        f"generated queries for {item.passage_id!r}, which is not among the "
        "passages",
        where=where,
        mend="give the passages that the queries were generated from",
      )
    if seen[row]:
      raise InputError(
        f"generated queries for {item.passage_id!r} appear twice",
        where=where,
        mend="put the queries of a passage into one line",
      )
    seen[row] = 1


# ----------------------------------------------------------------------- read


def read_blocks(
  collection: Collection, *, block_size: int, scratch_dir: Path
) -> Iterator[Block]:
  """Streams the collection, `block_size` passages at a time.

  Args:
    collection: what `scan_collection` returned.
    block_size: passages in a block; the last has the rest.
    scratch_dir: folder for the sorted queries if they are not in order; made
      and removed again.
  """
  generated_queries = collection.generated_queries
  if collection.is_in_order or generated_queries is None:
    yield from _cut(_merge(collection), block_size)
    return
  try:
    rows = _read_rows(collection.passages)
    found = read_generated_queries(generated_queries)
    _sort_queries((item for _, item in found), rows, block_size, scratch_dir)
    pairs = ((passage, {}) for passage in read_passages(collection.passages))
    for block in _cut(pairs, block_size):
      queries = _read_sorted(scratch_dir, block)
      yield dataclasses.replace(block, queries=queries)
  finally:
    shutil.rmtree(scratch_dir, ignore_errors=True)


def _merge(collection: Collection) -> Iterator[tuple[Passage, Queries]]:
  queries: Iterator[tuple[str, GeneratedQueries]] = iter(())
  if collection.generated_queries is not None:
    queries = read_generated_queries(collection.generated_queries)
  _, waiting = next(queries, (None, None))
  for passage in read_passages(collection.passages):
    if waiting is None or waiting.passage_id != passage.passage_id:
      yield passage, {}
      continue
    yield passage, waiting.queries
    _, waiting = next(queries, (None, None))


def _cut(
  pairs: Iterator[tuple[Passage, Queries]], block_size: int
) -> Iterator[Block]:
  index, passages, queries = 0, [], []
  for passage, its_queries in pairs:
    passages.append(passage)
    queries.append(its_queries)
    if len(passages) == block_size:
      yield Block(index, passages, queries)
      index, passages, queries = index + 1, [], []
  if passages:
    yield Block(index, passages, queries)


def _sort_queries(
  items: Iterable[GeneratedQueries],
  rows: Mapping[str, int],
  block_size: int,
  scratch_dir: Path,
) -> None:
  """Writes the generated queries to one file per block."""
  shutil.rmtree(scratch_dir, ignore_errors=True)
  scratch_dir.mkdir(parents=True)
  waiting: dict[int, list[tuple[int, Queries]]] = collections.defaultdict(list)
  num_waiting = 0
  for item in items:
    block, row = divmod(rows[item.passage_id], block_size)
    waiting[block].append((row, item.queries))
    num_waiting += sum(map(len, item.queries.values()))
    if num_waiting >= _MAX_WAITING:
      _append_sorted(scratch_dir, waiting)
      num_waiting = 0
  _append_sorted(scratch_dir, waiting)


def _append_sorted(
  scratch_dir: Path, waiting: dict[int, list[tuple[int, Queries]]]
) -> None:
  for block, items in waiting.items():
    with open(scratch_dir / f"{block}.jsonl", "a", encoding="utf-8") as file:
      for row, queries in items:
        write_json_line(file, {"row": row, "queries": queries})
  waiting.clear()


class _SortedRow(TypedDict):
  """Queries of one passage, by its row in a block."""

  row: Count
  queries: dict[str, list[str]]


def _read_sorted(scratch_dir: Path, block: Block) -> list[Queries]:
  queries: list[Queries] = [{} for _ in block.passages]
  path = scratch_dir / f"{block.index}.jsonl"
  if path.exists():
    with open(path, encoding="utf-8") as file:
      for line in file:
        item = decode_json(line, _SortedRow, where=path)
        queries[item["row"]] = item["queries"]
  return queries
