"""The stage `filter`: generated queries without those that would do harm.

What is left is written in the released form again, in the order of the
passages. An interrupted run goes on at the first shard that is missing or
damaged, with the same bytes as an unbroken run:

    scores/00000.npz                scores and ranks of a shard's queries
    part-00000-of-00018.jsonl.gz    one passage a line, released form
    finished/part-00000-of-....json checksum and counts of a finished shard
    manifest.json                   at the end: what each filter removed
"""

import collections
import dataclasses
import functools
import os
import pathlib
import random
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tqdm
from jaxtyping import Float, Int

from xqg_jax.checkpoint_files import tell_of_full_disk
from xqg_jax.checkpoints import load_dual_encoder
from xqg_jax.collection import (
  Block,
  Collection,
  read_blocks,
  scan_collection,
)
from xqg_jax.errors import InputError
from xqg_jax.files import (
  atomic_path,
  claim_output_dir,
  lock_folder,
  sha256_file,
  write_json,
)
from xqg_jax.models.dual_encoder import DualEncoder, DualEncoderConfig
from xqg_jax.query_filters import (
  TEXT_FILTERS,
  Judge,
  Judged,
  find_threshold,
  judge_scores,
  judge_texts,
)
from xqg_jax.query_shards import QueryShards, Record
from xqg_jax.records import Passage, list_shards, read_passages

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
_SCRATCH_FOLDER = ".sorted_queries"
# Removed queries that the manifest shows of each filter.
_NUM_EXAMPLES = 3

Scores = tuple[Float[np.ndarray, " queries"], Int[np.ndarray, " queries"]]


def filter_queries(
  *,
  passages: str | os.PathLike,
  generated_queries: str | os.PathLike,
  output_dir: str | os.PathLike,
  text_filters: Sequence[str] = TEXT_FILTERS,
  checkpoint_path: str | os.PathLike | None = None,
  encoder: DualEncoderConfig | None = None,
  round_trip_k: int | None = None,
  sample_size: int = 10_000,
  score_percentile: float = 0.0,
  seed: int = 0,
  shard_size: int = 1000,
) -> dict[str, Any]:
  """Removes generated queries, by one filter after the other.

  Args:
    passages: TSV or JSONL file, or a folder of such, that the queries were
      generated from.
    generated_queries: JSONL file, or folder of such.
    output_dir: folder to write; readers of generated queries take it whole.
    text_filters: of `query_filters.TEXT_FILTERS`, in this order: "empty",
      "duplicate" within a passage, "sentinel", and "script": fewer than half of
      the letters in that of the language.
    checkpoint_path: a dual encoder, for the two filters that need one.
    encoder: its pooling, prefixes and lengths; the checkpoint's own when
      absent.
    round_trip_k: keeps queries whose passage is among the best k of it and a
      sample of the others; None: all.
    sample_size: passages of this sample.
    score_percentile: removes so many per cent of the queries, over all
      languages: those with the smallest inner products with their passages.
    seed: of the sample.
    shard_size: passages in a file.

  Returns:
    The content of `manifest.json`: what each filter removed, with examples.

  Raises:
    InputError: bad input (the message names file and line), a filter without
      its dual encoder, a full disk, or an output folder that holds something
      else.
  """
  given = dict(locals())
  _check(given)
  collection = scan_collection(passages, generated_queries)
  model = checkpoint_path and load_dual_encoder(checkpoint_path, config=encoder)
  paths = [pathlib.Path(passages), *list_shards(generated_queries)]
  free = ("output_dir", "passages", "generated_queries", "checkpoint_path")
  arguments = {
    **{name: value for name, value in given.items() if name not in free},
    "encoder": model and model.fingerprint,
    "inputs": [{"name": p.name, "sha256": _digest(p)} for p in paths],
  }
  with tell_of_full_disk(pathlib.Path(output_dir)):
    folder = claim_output_dir(output_dir, stage="filter", arguments=arguments)
    with lock_folder(folder):
      job = FilteringJob(
        folder=folder,
        collection=collection,
        shard_size=shard_size,
        text_filters=tuple(text_filters),
        encoder=model,
        sample_size=sample_size,
        seed=seed,
        round_trip_k=round_trip_k,
        score_percentile=score_percentile,
      )
      records = job.run()
      manifest = _make_manifest(records, job.threshold, arguments)
      write_json(folder / MANIFEST_FILE, manifest)
  print(format_removed(manifest), file=sys.stderr)
  return manifest


def _check(given: Mapping[str, Any]) -> None:
  unknown = [name for name in given["text_filters"] if name not in TEXT_FILTERS]
  if unknown:
    raise InputError(
      f"unknown text filter {unknown[0]!r}",
      mend=f"use those of {', '.join(TEXT_FILTERS)}",
    )
  for name in ("round_trip_k", "sample_size", "shard_size"):
    if given[name] is not None and given[name] < 1:
      raise InputError(f"{name} is {given[name]}", mend="use 1 or more")
  percentile = given["score_percentile"]
  if not 0 <= percentile < 100:
    raise InputError(
      f"score_percentile is {percentile}", mend="use 0 or more, below 100"
    )
  needs_encoder = given["round_trip_k"] is not None or percentile > 0
  if needs_encoder != (given["checkpoint_path"] is not None):
    raise InputError(
      "a dual encoder and a filter that uses it go together",
      mend="set CHECKPOINT_PATH with ROUND_TRIP_K or SCORE_PERCENTILE",
    )


def _digest(path: pathlib.Path) -> str | list[str]:
  if not path.is_dir():
    return sha256_file(path)
  return [sha256_file(file) for file in sorted(path.iterdir())]


def _draw(passages: str | os.PathLike, size: int, seed: int) -> list[Passage]:
  """Some of the passages, drawn evenly, in order."""
  draw, drawn = random.Random(seed), {}
  for number, passage in enumerate(read_passages(passages)):
    # Algorithm R: each of the passages so far is as likely in the sample.
    place = number if number < size else draw.randrange(number + 1)
    if place < size:
      drawn[place] = (number, passage)
  return [passage for _, passage in sorted(drawn.values(), key=lambda x: x[0])]


# ------------------------------------------------------------------------- job


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
    if query.removed_by and len(examples[query.removed_by]) < _NUM_EXAMPLES:
      examples[query.removed_by].append(
        {
          "docid": block.passages[query.row].passage_id,
          "language": query.language,
          "query": query.text,
        }
      )
  return examples


# -------------------------------------------------------------------- manifest


def _make_manifest(
  records: Sequence[Record],
  threshold: float | None,
  arguments: Mapping[str, Any],
) -> dict[str, Any]:
  removed: dict[str, collections.Counter] = {}
  examples = collections.defaultdict(list)
  for record in records:
    for language, row in record["counts"].items():
      removed.setdefault(language, collections.Counter()).update(row)
      removed.setdefault("all", collections.Counter()).update(row)
    for name, found in record["examples"].items():
      examples[name] = (examples[name] + found)[:_NUM_EXAMPLES]
  num_queries = removed.get("all", {}).pop("queries", 0)
  for row in removed.values():
    row.pop("queries", None)
  num_removed = sum(removed.get("all", {}).values())
  shards = [
    {name: record[name] for name in ("name", "num_passages", "sha256")}
    for record in records
  ]
  return {
    "format_version": FORMAT_VERSION,
    "num_queries": num_queries,
    "num_kept": num_queries - num_removed,
    "removed": removed,
    "score_threshold": threshold,
    "examples": examples,
    **arguments,
    "shards": shards,
  }


def format_removed(manifest: Mapping[str, Any]) -> str:
  """What each filter removed, a line each.

  >>> print(
  ...   format_removed(
  ...     {
  ...       "num_queries": 50,
  ...       "num_kept": 47,
  ...       "removed": {"fi": {"script": 3}, "all": {"script": 3}},
  ...     }
  ...   )
  ... )
  47 of 50 generated queries are kept
  script removed 3 (6.0%): fi 3
  """
  total, removed = manifest["num_queries"], manifest["removed"]
  lines = [f"{manifest['num_kept']:,} of {total:,} generated queries are kept"]
  for name, count in removed.get("all", {}).items():
    by_language = ", ".join(
      f"{language} {row[name]:,}"
      for language, row in removed.items()
      if language != "all" and row.get(name)
    )
    share = f"{100 * count / total:.1f}%"
    lines.append(f"{name} removed {count:,} ({share}): {by_language}")
  return "\n".join(lines)
