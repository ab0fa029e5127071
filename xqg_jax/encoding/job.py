"""Encoding job over a collection, shard by shard."""

import dataclasses
import functools
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tqdm
from jaxtyping import Array, Float32, Int, Int32

from xqg_jax.augmentation.language_means import (
  LanguageMeans,
  merge_means,
  read_means,
)
from xqg_jax.data.collection import Block, Collection, read_blocks
from xqg_jax.encoding.batches import Batch, choose_rows_per_batch, make_batches
from xqg_jax.encoding.embedder import Embedder
from xqg_jax.io.locations import Location
from xqg_jax.io.scratch import open_scratch
from xqg_jax.io.shard_job import Record, Turn, run_shards
from xqg_jax.models.dual_encoder.config import Side
from xqg_jax.runtime.idle_meter import IdleMeter
from xqg_jax.store.shards import ShardArrays, StoreShards
from xqg_jax.store.store import Group

_SCRATCH_FOLDER = ".sorted_queries"


def make_groups(
  collection: Collection, group_by: Sequence[str]
) -> list[dict[str, Any]]:
  """What each query sum of a passage is over; None stands for all.

  Args:
    collection: what was scanned.
    group_by: one of `GROUPINGS`.

  Returns:
    `{"language": ..., "rank": ...}` of each group, ranks counted from 1; none
    without generated queries.

  >>> scanned = Collection("p.tsv", "q.jsonl", 9, 36, ("ar", "fi"), 2)
  >>> make_groups(scanned, ("language",))
  [{'language': 'ar', 'rank': None}, {'language': 'fi', 'rank': None}]
  """
  if collection.generated_queries is None:
    return []
  languages = collection.languages if "language" in group_by else (None,)
  ranks = range(1, collection.max_rank + 1) if "rank" in group_by else (None,)
  return [{"language": c, "rank": r} for c in languages for r in ranks]


@dataclasses.dataclass(frozen=True)
class _Shard:
  """A shard that is ready for the device."""

  passage_ids: list[str]
  query_counts: Int32[np.ndarray, "passages groups"]
  language_counts: Int[np.ndarray, " languages"]
  batches: list[Batch]


# Of all targets, and of the queries of each language.
_Sums = tuple[Float32[Array, "targets dim"], Float32[Array, "languages dim"]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodingJob(StoreShards[Block, _Shard]):
  """Encodes the shards that a folder lacks.

  While the device works on one shard, a thread tokenises and packs the next
  and another writes the last.

  The device returns one array for a shard: its passages' vectors first, then
  the query sums of its first passage, of its second, ... and another of the
  sums of all its queries by language, which come to the means of the store.
  """

  folder: Location
  embedder: Embedder
  collection: Collection
  groups: Sequence[Group]
  shard_size: int
  dtype: str
  row_lengths: Sequence[int] | None
  tokens_per_batch: int | None
  turn: Turn = dataclasses.field(default_factory=Turn)
  idle: IdleMeter = dataclasses.field(default_factory=IdleMeter)
  task: str = "encode"
  counts_itself: bool = True

  @property
  def num_shards(self) -> int:
    """Of all processes."""
    return -(-self.collection.num_passages // self.shard_size)

  @property
  def scratch(self) -> str:
    """Where queries are sorted; each process has its own."""
    index = self.turn.index
    return f"{_SCRATCH_FOLDER}-{index}" if index else _SCRATCH_FOLDER

  @property
  def total(self) -> int:
    """Passages of this process."""
    indices = filter(self.turn.has, range(self.num_shards))
    return sum(map(self._count_rows, indices))

  @property
  def num_targets(self) -> int:
    """Vectors that a shard comes to: passages and their query sums."""
    return self.shard_size * (1 + len(self.groups))

  def run(self) -> list[Record]:
    """Returns the records of all shards, in order."""
    with self.idle:
      records = run_shards(self, turn=self.turn)
    if self.idle.seconds:
      print(f"encoded: {self.idle.describe()}", file=sys.stderr)
    if self.groups and self.turn.index == 0:
      self._merge_means(records)
    return records

  def check(self, record: Record) -> None:
    """Compares a shard's arrays, and the means of its queries."""
    super().check(record)
    if self.groups:
      read_means(self.folder / record["name"])

  def _merge_means(self, records: Sequence[Record]) -> None:
    """Writes the means of all generated queries beside the shards."""
    parts = [read_means(self.folder / record["name"]) for record in records]
    if any(part.languages for part in parts):
      merge_means(parts).write(self.folder)

  def _count_rows(self, index: int) -> int:
    rest = self.collection.num_passages - index * self.shard_size
    return min(self.shard_size, rest)

  def read(self) -> Iterator[Block]:
    """Streams the passages with their queries."""
    with open_scratch(self.folder, self.scratch) as scratch:
      yield from read_blocks(
        self.collection, block_size=self.shard_size, scratch_dir=scratch
      )

  @functools.cached_property
  def _rows_per_batch(self) -> Mapping[int, int]:
    config = self.embedder.encoder.config
    lengths = [config.passage_length, config.query_length]
    return choose_rows_per_batch(
      max_length=max(lengths[: 2 if self.groups else 1]),
      mesh=self.embedder.mesh,
      row_lengths=self.row_lengths,
      tokens_per_batch=self.tokens_per_batch,
    )

  def prepare(self, raw: Block) -> _Shard:
    """Tokenises and packs the texts of a shard."""
    model = self.embedder.encoder
    config, encode_batch = model.config, model.tokenizer.encode_batch
    passage_tokens = encode_batch(
      [model.format_passage(passage) for passage in raw.passages],
      max_length=config.passage_length,
    )
    queries, rows, groups, languages = self._list_queries(raw)
    query_tokens = encode_batch(
      [model.format_query(query) for query in queries],
      max_length=config.query_length,
    )
    num_groups = len(self.groups)
    query_targets = self.shard_size + rows * num_groups + groups
    counts = np.zeros((len(raw.passages), num_groups), np.int32)
    np.add.at(counts, (rows, groups), 1)
    num_languages = len(self.collection.languages)
    no_marks = np.full(len(passage_tokens), num_languages)
    batches = self._make_batches(
      {
        "passage": (passage_tokens, np.arange(len(passage_tokens)), no_marks),
        "query": (query_tokens, query_targets, languages),
      }
    )
    ids = [passage.passage_id for passage in raw.passages]
    language_counts = np.bincount(languages, minlength=num_languages)
    return _Shard(ids, counts, language_counts, batches)

  def make(self, work: _Shard, bar: tqdm.tqdm) -> tuple[_Shard, _Sums]:
    """Encodes the texts of a shard on the device."""
    sums = self.embedder.sum_marked_texts(
      work.batches,
      num_targets=self.num_targets,
      num_marks=len(self.collection.languages),
      on_batch=_make_advance(bar, work, self.idle),
      idle=self.idle,
    )
    return work, sums

  def _make_batches(
    self,
    texts: Mapping[Side, tuple[list[np.ndarray], np.ndarray, np.ndarray]],
  ) -> list[Batch]:
    """Packs the tokens of each side; into common rows where sides are alike.

    Args:
      texts: tokens, targets and marks of each side.
    """
    model = self.embedder.encoder
    make = functools.partial(
      make_batches,
      num_targets=self.num_targets,
      rows_per_batch=self._rows_per_batch,
      pad_id=model.tokenizer.pad_id,
    )
    if not model.config.share_encoders:
      return [
        batch
        for side, (tokens, targets, marks) in texts.items()
        if tokens
        for batch in make(tokens, targets, side=side, marks=marks)
      ]
    token_lists, targets, marks = zip(*texts.values(), strict=True)
    return make(
      list(itertools.chain(*token_lists)),
      np.concatenate(targets),
      marks=np.concatenate(marks),
    )

  def _list_queries(
    self, block: Block
  ) -> tuple[
    list[str],
    Int[np.ndarray, " queries"],
    Int[np.ndarray, " queries"],
    Int[np.ndarray, " queries"],
  ]:
    """The generated queries of a block: texts, rows, groups, languages."""
    group_of = {
      (group["language"], group["rank"]): i
      for i, group in enumerate(self.groups)
    }
    number_of = {name: i for i, name in enumerate(self.collection.languages)}
    use_language = any(language for language, _ in group_of)
    use_rank = any(rank for _, rank in group_of)
    queries: list[str] = []
    places: list[tuple[int, int, int]] = []
    for row, by_language in enumerate(block.queries):
      for language, texts in by_language.items():
        for rank, text in enumerate(texts, start=1):
          if text.strip():
            key = (
              language if use_language else None,
              rank if use_rank else None,
            )
            queries.append(text)
            places.append((row, group_of[key], number_of[language]))
    rows, groups, languages = np.array(places, np.int64).reshape(-1, 3).T
    return queries, rows, groups, languages

  def write(self, place: Location, made: tuple[_Shard, _Sums]) -> Record:
    """Writes a shard once the device is through with it."""
    shard, (sums, language_sums) = made
    values = np.asarray(sums)
    num_rows, num_groups = shard.query_counts.shape
    # [shard_size * groups, dim] -> [rows, groups, dim]
    query_sums = values[self.shard_size :].reshape(
      self.shard_size, num_groups, values.shape[1]
    )[:num_rows]
    arrays = ShardArrays(
      shard.passage_ids,
      values[:num_rows],
      query_sums if self.groups else None,
      shard.query_counts if self.groups else None,
    )
    record = super().write(place, arrays)
    if self.groups:
      means = self._divide(np.asarray(language_sums), shard.language_counts)
      means.write(place)
    return record

  def _divide(
    self,
    sums: Float32[np.ndarray, "languages dim"],
    counts: Int[np.ndarray, " languages"],
  ) -> LanguageMeans:
    """Means of a shard's queries; of no language where it has none."""
    used = np.flatnonzero(counts)
    return LanguageMeans(
      tuple(self.collection.languages[i] for i in used),
      sums[used].astype(np.float64) / counts[used, None],
      counts[used],
      self.embedder.encoder.fingerprint,
    )


def _make_advance(
  progress: tqdm.tqdm, shard: _Shard, idle: IdleMeter
) -> Callable[[], None]:
  """Moves the bar on by the shard's passages, spread over its batches."""
  num_passages, num_batches = len(shard.passage_ids), len(shard.batches)
  done = itertools.count(1)

  def advance() -> None:
    batch = next(done)
    before = num_passages * (batch - 1) // num_batches
    progress.set_postfix_str(f"idle {idle.share:.1%}", refresh=False)
    progress.update(num_passages * batch // num_batches - before)

  return advance
