"""Encoding job over a collection, shard by shard."""

import dataclasses
import functools
import itertools
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
import tqdm
from jaxtyping import Array, Float32, Int, Int32

from xqg_jax.data.collection import Block, Collection, read_blocks
from xqg_jax.encoding.embedder import (
  Batch,
  Embedder,
  choose_rows_per_batch,
  make_batches,
)
from xqg_jax.errors import InputError
from xqg_jax.io.locations import Location
from xqg_jax.models.dual_encoder.config import Side
from xqg_jax.runtime.idle_meter import IdleMeter
from xqg_jax.runtime.prefetch import prefetch
from xqg_jax.runtime.processes import is_first_process, wait_for_all
from xqg_jax.store.shards import (
  SHARD_FILE,
  ShardArrays,
  read_shard_record,
  shard_name,
  write_shard,
)
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

  index: int
  passage_ids: list[str]
  query_counts: Int32[np.ndarray, "passages groups"]
  batches: list[Batch]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodingJob:
  """Encodes the shards that a folder lacks.

  While the device works on one shard, a thread tokenises and packs the next
  and another writes the last. Of several processes each makes the shards whose
  number leaves its own when divided by their number.

  The device returns one array for a shard: its passages' vectors first, then
  the query sums of its first passage, of its second, ...
  """

  folder: Location
  embedder: Embedder
  collection: Collection
  groups: list[Group]
  shard_size: int
  dtype: str
  row_lengths: Sequence[int] | None
  tokens_per_batch: int | None

  @property
  def num_targets(self) -> int:
    """Vectors that a shard comes to: passages and their query sums."""
    return self.shard_size * (1 + len(self.groups))

  def run(self) -> list[dict[str, Any]]:
    """Returns the records of all shards, in order."""
    num_shards = -(-self.collection.num_passages // self.shard_size)
    own = range(jax.process_index(), num_shards, jax.process_count())
    found = {i: read_shard_record(self.folder, i) for i in own}
    records = {i: record for i, record in found.items() if record is not None}
    if len(records) < len(own):
      records |= self._encode_missing(records, own)
    if self.folder.is_local:  # a killed run may have left it
      shutil.rmtree(self.folder / self._scratch_name, ignore_errors=True)
    wait_for_all(f"shards of {self.folder}")
    # Each process has read or written its own; the first lists them all.
    if is_first_process():
      others = (i for i in range(num_shards) if i not in records)
      records |= {i: self._read_record(i) for i in others}
    return [records[i] for i in sorted(records)]

  @property
  def _scratch_name(self) -> str:
    index = jax.process_index()
    return f"{_SCRATCH_FOLDER}-{index}" if index else _SCRATCH_FOLDER

  def _read_record(self, index: int) -> dict[str, Any]:
    place = self.folder / shard_name(index) / SHARD_FILE
    record = place.read_json()
    if record is None:
      raise InputError(
        "another process should have written it",
        where=place,
        mend="give all processes an OUTPUT_DIR that they share",
      )
    return record

  def _encode_missing(
    self, finished: Mapping[int, Mapping[str, Any]], own: range
  ) -> dict[int, dict[str, Any]]:
    records: dict[int, dict[str, Any]] = {}
    writing: tuple[int, Future] | None = None
    with (
      tqdm.tqdm(
        desc="encode",
        unit=" passages",
        total=sum(map(self._count_rows, own)),
        initial=sum(record["rows"] for record in finished.values()),
      ) as progress,
      ThreadPoolExecutor(1) as writer,
      IdleMeter() as idle,
    ):
      for shard in prefetch(self._prepare_shards(finished, own)):
        sums = self.embedder.sum_texts(
          shard.batches,
          num_targets=self.num_targets,
          on_batch=_make_advance(progress, shard, idle),
          idle=idle,
        )
        # The last shard is written while the device goes on with the next.
        if writing is not None:
          records[writing[0]] = writing[1].result()
        writing = shard.index, writer.submit(self._write, shard, sums)
      if writing is not None:
        records[writing[0]] = writing[1].result()
    print(f"encoded: {idle.describe()}", file=sys.stderr)
    return records

  def _count_rows(self, index: int) -> int:
    rest = self.collection.num_passages - index * self.shard_size
    return min(self.shard_size, rest)

  def _prepare_shards(
    self, finished: Mapping[int, Mapping[str, Any]], own: range
  ) -> Iterator[_Shard]:
    model = self.embedder.encoder
    lengths = [model.config.passage_length, model.config.query_length]
    rows_per_batch = choose_rows_per_batch(
      max_length=max(lengths[: 2 if self.groups else 1]),
      mesh=self.embedder.mesh,
      row_lengths=self.row_lengths,
      tokens_per_batch=self.tokens_per_batch,
    )
    with tempfile.TemporaryDirectory() as elsewhere:
      folder = self.folder if self.folder.is_local else elsewhere
      blocks = read_blocks(
        self.collection,
        block_size=self.shard_size,
        scratch_dir=pathlib.Path(folder, self._scratch_name),
      )
      for block in blocks:
        if block.index in own and block.index not in finished:
          yield self._prepare(block, rows_per_batch)

  def _prepare(self, block: Block, rows_per_batch: Mapping[int, int]) -> _Shard:
    model = self.embedder.encoder
    config, encode_batch = model.config, model.tokenizer.encode_batch
    passage_tokens = encode_batch(
      [model.format_passage(passage) for passage in block.passages],
      max_length=config.passage_length,
    )
    queries, rows, groups = self._list_queries(block)
    query_tokens = encode_batch(
      [model.format_query(query) for query in queries],
      max_length=config.query_length,
    )
    num_groups = len(self.groups)
    query_targets = self.shard_size + rows * num_groups + groups
    counts = np.zeros((len(block.passages), num_groups), np.int32)
    np.add.at(counts, (rows, groups), 1)
    batches = self._make_batches(
      {
        "passage": (passage_tokens, np.arange(len(passage_tokens))),
        "query": (query_tokens, query_targets),
      },
      rows_per_batch,
    )
    ids = [passage.passage_id for passage in block.passages]
    return _Shard(block.index, ids, counts, batches)

  def _make_batches(
    self,
    texts: Mapping[Side, tuple[list[np.ndarray], Int[np.ndarray, " texts"]]],
    rows_per_batch: Mapping[int, int],
  ) -> list[Batch]:
    """Packs the tokens of each side; into common rows where sides are alike."""
    model = self.embedder.encoder
    make = functools.partial(
      make_batches,
      num_targets=self.num_targets,
      rows_per_batch=rows_per_batch,
      pad_id=model.tokenizer.pad_id,
    )
    if not model.config.share_encoders:
      return [
        batch
        for side, (tokens, targets) in texts.items()
        if tokens
        for batch in make(tokens, targets, side=side)
      ]
    token_lists, targets = zip(*texts.values(), strict=True)
    return make(list(itertools.chain(*token_lists)), np.concatenate(targets))

  def _list_queries(
    self, block: Block
  ) -> tuple[
    list[str], Int[np.ndarray, " queries"], Int[np.ndarray, " queries"]
  ]:
    """The generated queries of a block, with their rows and groups."""
    group_of = {
      (group["language"], group["rank"]): i
      for i, group in enumerate(self.groups)
    }
    use_language = any(language for language, _ in group_of)
    use_rank = any(rank for _, rank in group_of)
    queries: list[str] = []
    places: list[tuple[int, int]] = []
    for row, by_language in enumerate(block.queries):
      for language, texts in by_language.items():
        for rank, text in enumerate(texts, start=1):
          if text.strip():
            key = (
              language if use_language else None,
              rank if use_rank else None,
            )
            queries.append(text)
            places.append((row, group_of[key]))
    rows, groups = np.array(places, np.int64).reshape(-1, 2).T
    return queries, rows, groups

  def _write(
    self, shard: _Shard, sums: Float32[Array, "targets dim"]
  ) -> dict[str, Any]:
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
    return write_shard(self.folder, shard.index, arrays, dtype=self.dtype)


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
