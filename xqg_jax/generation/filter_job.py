"""Filtering of generated queries, shard by shard, with counts and examples."""

import collections
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tqdm
from jaxtyping import Float, Int

from xqg_jax.augmentation.centering import NO_CENTERING, Centering
from xqg_jax.data.collection import (
  Block,
  Collection,
  read_blocks,
)
from xqg_jax.data.passages import read_passages
from xqg_jax.data.samples import draw_sample
from xqg_jax.generation.query_files import QueryRecord, QueryShards, Row
from xqg_jax.generation.query_filters import (
  Judge,
  Judged,
  find_threshold,
  judge_scores,
  judge_texts,
)
from xqg_jax.io.files import read_arrays
from xqg_jax.io.locations import Location
from xqg_jax.io.scratch import open_scratch
from xqg_jax.io.shard_job import Record, ShardJob, run_shards
from xqg_jax.io.typed_json import Count
from xqg_jax.models.dual_encoder.dual_encoder import DualEncoder

SCORES_FOLDER = "scores"
# Removed queries that the manifest shows of each filter.
NUM_EXAMPLES = 3
Scores = tuple[Float[np.ndarray, " queries"], Int[np.ndarray, " queries"]]


class FilteredRecord(QueryRecord):
  """Of a shard that was filtered: what was removed, with examples."""

  counts: dict[str, dict[str, Count]]
  examples: dict[str, list[Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FilteringJob(QueryShards[Block, Block]):
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
    centering: of the queries that are scored.
  """

  folder: Location
  collection: Collection
  shard_size: int
  text_filters: tuple[str, ...]
  encoder: DualEncoder | None
  sample_size: int
  seed: int
  round_trip_k: int | None
  score_percentile: float
  centering: Centering = NO_CENTERING

  task: str = "filter"
  schema: type = FilteredRecord
  scratch: str = ".sorted_queries"
  counts_itself: bool = True

  def run(self) -> list[Record]:
    """Writes every shard that is not there yet; returns all their records."""
    if self.encoder is not None:
      run_shards(_ScoreJob(self))
    return run_shards(self)

  @property
  def num_shards(self) -> int:
    """Shards of queries, and of scores."""
    return -(-self.total // self.shard_size)

  @property
  def total(self) -> int:
    """Passages."""
    return self.collection.num_passages

  def read(self) -> Iterator[Block]:
    """Streams the passages of each shard with their queries."""
    with open_scratch(self.folder, self.scratch) as scratch:
      yield from read_blocks(
        self.collection, block_size=self.shard_size, scratch_dir=scratch
      )

  @functools.cached_property
  def threshold(self) -> float | None:
    """The score that the percentile comes to, over all scored queries."""
    if self.encoder is None or not self.score_percentile:
      return None
    scores = [self._read_scores(i)[0] for i in range(self.num_shards)]
    return find_threshold(np.concatenate(scores), self.score_percentile)

  def _read_scores(self, index: int) -> Scores:
    arrays = read_arrays(self.folder / SCORES_FOLDER / f"{index:05d}.npz")
    return arrays["scores"], arrays["ranks"]

  def make(self, work: Block, bar: tqdm.tqdm) -> tuple[list[Row], Record]:
    """Applies the filters to the queries of a shard."""
    judged = judge_texts(work.queries, self.text_filters)
    if self.encoder is not None:
      judged = self._add_scores(work.index, judged)
    kept: list[dict[str, list[str]]] = [
      {language: [] for language in texts} for texts in work.queries
    ]
    for query in judged:
      if query.removed_by is None:
        kept[query.row][query.language].append(query.text)
    rows: list[Row] = [
      row for row in zip(work.passages, kept, strict=True) if row[1]
    ]  # without passages that came without queries
    facts = {
      "num_passages": len(rows),
      **_count_removed(judged),
      "examples": _list_examples(work, judged),
    }
    bar.update(len(work.passages))
    return rows, facts

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


class _ScoreJob(ShardJob[Block, Block, tuple[int, Scores]]):
  """Scores and ranks of the queries that the text filters leave."""

  task = "score"

  def __init__(self, job: FilteringJob):
    """Scores the queries that `job` filters."""
    self.folder = job.folder / SCORES_FOLDER
    self.num_shards, self.total, self.read = job.num_shards, job.total, job.read
    self._job = job

  def name_shard(self, index: int) -> str:
    return f"{index:05d}.npz"

  @functools.cached_property
  def _judge(self) -> Judge:
    job = self._job
    if job.encoder is None:
      raise ValueError("no dual encoder scores the queries")
    passages = read_passages(job.collection.passages)
    sample, _ = draw_sample(passages, job.sample_size, seed=job.seed)
    return Judge.make(job.encoder, sample, job.centering)

  def make(self, work: Block, bar: tqdm.tqdm) -> tuple[int, Scores]:
    del bar
    judged = judge_texts(work.queries, self._job.text_filters)
    left = [query for query in judged if query.removed_by is None]
    return len(work.passages), self._judge.score(work.passages, left)

  def write(self, place: Location, made: tuple[int, Scores]) -> Record:
    num_rows, (scores, ranks) = made
    with open(place, "wb") as file:
      np.savez(file, scores=scores, ranks=ranks)
    return {"rows": num_rows}


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
