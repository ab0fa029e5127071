"""Filtering of generated queries, shard by shard, with counts and examples."""

import collections
import dataclasses
import functools
import os
import pathlib
import random
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tqdm
from jaxtyping import Float, Int

from xqg_jax.data.collection import (
  Block,
  Collection,
  read_blocks,
)
from xqg_jax.data.passages import Passage, read_passages
from xqg_jax.generation.query_files import QueryShards, Record
from xqg_jax.generation.query_filters import (
  Judge,
  Judged,
  find_threshold,
  judge_scores,
  judge_texts,
)
from xqg_jax.io.files import atomic_path
from xqg_jax.models.dual_encoder.dual_encoder import DualEncoder

_SCRATCH_FOLDER = ".sorted_queries"
# Removed queries that the manifest shows of each filter.
NUM_EXAMPLES = 3
Scores = tuple[Float[np.ndarray, " queries"], Int[np.ndarray, " queries"]]


def _draw(passages: str | os.PathLike, size: int, seed: int) -> list[Passage]:
  """Some of the passages, drawn evenly, in order."""
  draw, drawn = random.Random(seed), {}
  for number, passage in enumerate(read_passages(passages)):
    # Algorithm R: each of the passages so far is as likely in the sample.
    place = number if number < size else draw.randrange(number + 1)
    if place < size:
      drawn[place] = (number, passage)
  return [passage for _, passage in sorted(drawn.values(), key=lambda x: x[0])]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FilteringJob:
  """The shards of one run.

  Attributes:
    folder: to write to.
    collection: passages and their queries.
    shard_size: passages in a shard; the last has the rest.
    text_filters: those applied.
    encoder: scores what the text filters leave; None: nothing is scored.
    sample_size: see `filter_queries`.
    seed: of the sample.
    round_trip_k: see `filter_queries`.
    score_percentile: see `filter_queries`.
  """

  folder: pathlib.Path
  collection: Collection
  shard_size: int
  text_filters: tuple[str, ...]
  encoder: DualEncoder | None
  sample_size: int
  seed: int
  round_trip_k: int | None
  score_percentile: float

  @property
  def files(self) -> QueryShards:
    """The shards on disk."""
    count = -(-self.collection.num_passages // self.shard_size)
    return QueryShards(self.folder, count)

  def run(self) -> list[Record]:
    """Writes every shard that is not there yet; returns all their records."""
    if self.encoder is not None and not self._is_scored():
      for block in self._read("score"):
        if self._read_scores(block.index) is None:
          self._score(block)
    records = []
    for block in self._read("filter"):
      record = self.files.read_record(block.index)
      records.append(record or self._write(block))
    return records

  def _is_scored(self) -> bool:
    indices = range(self.files.count)
    return all(self._read_scores(index) is not None for index in indices)

  @functools.cached_property
  def _judge(self) -> Judge:
    sample = _draw(self.collection.passages, self.sample_size, self.seed)
    return Judge.make(self.encoder, sample)

  @functools.cached_property
  def threshold(self) -> float | None:
    """The score that the percentile comes to, over all scored queries."""
    if self.encoder is None or not self.score_percentile:
      return None
    scores = [self._read_scores(i)[0] for i in range(self.files.count)]
    return find_threshold(np.concatenate(scores), self.score_percentile)

  def _read(self, what: str) -> Iterator[Block]:
    blocks = read_blocks(
      self.collection,
      block_size=self.shard_size,
      scratch_dir=self.folder / _SCRATCH_FOLDER,
    )
    with tqdm.tqdm(
      total=self.collection.num_passages, desc=what, unit=" passages"
    ) as progress:
      for block in blocks:
        yield block
        progress.update(len(block.passages))

  def _score(self, block: Block) -> None:
    path = self._scores_path(block.index)
    judged = judge_texts(block.queries, self.text_filters)
    left = [query for query in judged if query.removed_by is None]
    scores, ranks = self._judge.score(block.passages, left)
    with atomic_path(path) as partial, partial.open("wb") as file:
      np.savez(file, scores=scores, ranks=ranks)

  def _scores_path(self, index: int) -> pathlib.Path:
    return self.folder / "scores" / f"{index:05d}.npz"

  def _read_scores(self, index: int) -> Scores | None:
    """Scores and ranks of a shard; None where they are missing or damaged."""
    try:
      with np.load(self._scores_path(index), allow_pickle=False) as arrays:
        return arrays["scores"], arrays["ranks"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
      return None

  def _write(self, block: Block) -> Record:
    judged = judge_texts(block.queries, self.text_filters)
    if self.encoder is not None:
      judged = self._add_scores(block.index, judged)
    kept = [
      {language: [] for language in by_language}
      for by_language in block.queries
    ]
    for query in judged:
      if query.removed_by is None:
        kept[query.row][query.language].append(query.text)
    rows = [
      row for row in zip(block.passages, kept, strict=True) if row[1]
    ]  # without passages that came without queries
    facts = {"num_passages": len(rows), **_count_removed(judged)}
    facts["examples"] = _list_examples(block, judged)
    return self.files.write(block.index, rows, facts)

  def _add_scores(self, index: int, judged: list[Judged]) -> list[Judged]:
    found = iter(
      judge_scores(
        *self._read_scores(index),
        k=self.round_trip_k,
        threshold=self.threshold,
      )
    )
    return [
      dataclasses.replace(query, removed_by=query.removed_by or next(found))
      for query in judged
    ]


def _count_removed(judged: Sequence[Judged]) -> dict[str, Any]:
  removed: dict[str, collections.Counter] = {}
  for query in judged:
    row = removed.setdefault(query.language, collections.Counter())
    row["queries"] += 1
    if query.removed_by:
      row[query.removed_by] += 1
  return {"counts": removed}


def _list_examples(
  block: Block, judged: Sequence[Judged]
) -> dict[str, list[dict[str, str]]]:
  examples = collections.defaultdict(list)
  for query in judged:
    if query.removed_by and len(examples[query.removed_by]) < NUM_EXAMPLES:
      examples[query.removed_by].append(
        {
          "docid": block.passages[query.row].passage_id,
          "language": query.language,
          "query": query.text,
        }
      )
  return examples
