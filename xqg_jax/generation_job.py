"""The work of one `generate`: a sample for its health, then shard by shard.

Each of several processes writes the shards of its own turn, and none waits for
another before its last one. What they tell each other lies in the folder.
"""

import dataclasses
import gzip
import io
import itertools
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import tqdm

from xqg_jax.errors import InputError
from xqg_jax.files import atomic_path, read_json, sha256_file, write_json
from xqg_jax.prefetching import prefetch
from xqg_jax.query_health import (
  Counts,
  add_counts,
  count_signs,
  find_faults,
  format_health,
  to_shares,
)
from xqg_jax.query_writing import Prompt, QueryWriter, WrittenQueries
from xqg_jax.records import (
  Passage,
  read_passages,
  write_generated_queries,
)

SAMPLE_FILE = "health_sample.json"
# Passages of the sample whose queries are kept to be looked at.
_NUM_EXAMPLES = 5
_SECONDS_BETWEEN_LOOKS = 0.5

Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Shard:
  """Consecutive passages, with their prompts once they are made."""

  index: int
  passages: Sequence[Passage]
  prompts: Sequence[Prompt]


@dataclasses.dataclass(frozen=True)
class Turn:
  """The shards of one of several processes: every `count`-th from `index`."""

  index: int = 0
  count: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationJob:
  """The shards of one run.

  Attributes:
    folder: to write to.
    passages: file or folder of the passages.
    num_passages: in it, without empty ones.
    shard_size: passages in a shard; the last has the rest.
    writer: writes the queries.
    turn: which shards are this process's.
    force: goes on whatever the queries look like.
    hourly_price: of all devices of this process, to say what is left to pay.
  """

  folder: pathlib.Path
  passages: pathlib.Path
  num_passages: int
  shard_size: int
  writer: QueryWriter
  turn: Turn = Turn()
  force: bool = False
  hourly_price: float | None = None

  @property
  def num_shards(self) -> int:
    """Of all processes."""
    return -(-self.num_passages // self.shard_size)

  # -------------------------------------------------------------------- health

  def check_sample(self, sample: Sequence[Passage]) -> Counts:
    """Writes queries for a few passages first, and says how they look.

    Raises:
      InputError: unwell, and not forced.
    """
    path = self.folder / SAMPLE_FILE
    if self.turn.index == 0 and not path.exists():
      written = self.writer.write(sample)
      counts = _count(sample, written)
      examples = [
        {"docid": passage.passage_id, "generated_queries": queries}
        for passage, queries in zip(sample, written.queries, strict=True)
      ]
      content = {"counts": counts, "examples": examples[:_NUM_EXAMPLES]}
      write_json(path, content)
    wait_until(path.exists)
    counts = read_json(path)["counts"]
    print(
      f"health of a sample, in %:\n{format_health(counts)}", file=sys.stderr
    )
    self._judge(counts, f"queries of a sample of {len(sample)} passages")
    for language, faults in find_faults(counts).items():
      if faults and language != "all":
        print(
          f"xqg: warning: {language}: {', '.join(faults)} of the sample's "
          "queries; was the checkpoint trained for this language?",
          file=sys.stderr,
        )
    return counts

  def _judge(self, counts: Counts, what: str) -> None:
    faults = find_faults(counts)["all"]
    if faults and not self.force:
      raise InputError(
        f"the query generator looks untrained or damaged: {what} are "
        f"{', '.join(faults)}",
        where=self.folder,
        mend="check CHECKPOINT_PATH and the examples in "
        f"{SAMPLE_FILE}, or set FORCE=True to go on all the same",
      )

  # -------------------------------------------------------------------- shards

  def run(self) -> list[Record]:
    """Writes this process's shards; returns all records when all are there."""
    own = range(self.turn.index, self.num_shards, self.turn.count)
    found = {index: self._read_record(index) for index in own}
    records = {i: record for i, record in found.items() if record is not None}
    with (
      self._start_progress(own, records) as progress,
      ThreadPoolExecutor(1) as pool,
    ):
      missing = {index for index in own if index not in records}
      writing: list[Future[Record]] = []
      for shard in prefetch(self._prepare(missing)):
        written = self.writer.write_prompts(
          shard.prompts, len(shard.passages), on_progress=progress.update
        )
        # The last shard is written while the devices go on with the next.
        self._finish(writing, records, progress)
        writing.append(pool.submit(self._write_shard, shard, written))
      self._finish(writing, records, progress)
    return self._collect_records()

  def _prepare(self, wanted: set[int]) -> Iterator[Shard]:
    if not wanted:
      return
    passages = read_passages(self.passages, on_empty=lambda *_: None)
    parts = iter(lambda: list(itertools.islice(passages, self.shard_size)), [])
    for index, some in enumerate(parts):
      if index in wanted:
        yield Shard(index, some, self.writer.make_prompts(some))

  def _finish(
    self,
    writing: list[Future[Record]],
    records: dict[int, Record],
    progress: tqdm.tqdm,
  ) -> None:
    """Waits for the shard being written, and looks at how all are."""
    while writing:
      record = writing.pop().result()
      records[record["index"]] = record
      counts = add_counts(r["counts"] for r in records.values())
      progress.set_postfix_str(self._describe(counts, progress))
      self._judge(counts, "queries so far")

  def _start_progress(
    self, own: range, records: Mapping[int, Record]
  ) -> tqdm.tqdm:
    done = sum(record["num_passages"] for record in records.values())
    settings = self.writer.settings
    per_passage = len(settings.languages) * settings.num_queries
    return tqdm.tqdm(
      total=sum(map(self._shard_length, own)) * per_passage,
      initial=done * per_passage,
      desc="generate",
      unit=" queries",
    )

  def _describe(self, counts: Counts, progress: tqdm.tqdm) -> str:
    shares = to_shares(counts)["all"]
    unwell = [
      f"{100 * shares[sign]:.1f}% {sign.replace('_', ' ')}"
      for sign in ("empty", "duplicate", "wrong_script")
    ]
    cost = find_cost_left(progress.format_dict, self.hourly_price)
    return ", ".join(unwell + ([] if cost is None else [f"${cost:,.2f} to go"]))

  def _shard_length(self, index: int) -> int:
    start = index * self.shard_size
    return min(self.shard_size, self.num_passages - start)

  def _collect_records(self) -> list[Record]:
    """The records of all shards, once the other processes have theirs."""
    paths = [self._record_path(index) for index in range(self.num_shards)]
    for path in paths:
      wait_until(path.exists)
    return [read_json(path) for path in paths]

  # --------------------------------------------------------------------- files

  def shard_name(self, index: int) -> str:
    """File name of a shard, which says how many there are."""
    return f"part-{index:05d}-of-{self.num_shards:05d}.jsonl.gz"

  def _record_path(self, index: int) -> pathlib.Path:
    stem = self.shard_name(index).removesuffix(".jsonl.gz")
    return self.folder / "finished" / f"{stem}.json"

  def _read_record(self, index: int) -> Record | None:
    """The record of a finished, undamaged shard; None where there is none."""
    path = self.folder / self.shard_name(index)
    try:
      record = read_json(self._record_path(index))
      is_same = sha256_file(path) == record["sha256"]
    except (InputError, KeyError, TypeError, FileNotFoundError):
      is_same = False
    if not is_same:
      # Another process waits for it.
      self._record_path(index).unlink(missing_ok=True)
    return record if is_same else None

  def _write_shard(self, shard: Shard, written: WrittenQueries) -> Record:
    path = self.folder / self.shard_name(shard.index)
    with atomic_path(path) as partial:
      _write_gzip(partial, shard.passages, written.queries)
      digest = sha256_file(partial)
    counts = _count(shard.passages, written)
    record = {
      "index": shard.index,
      "name": path.name,
      "num_passages": len(shard.passages),
      "num_queries": sum(row["queries"] for row in counts.values()),
      "num_cut_prompts": sum(prompt.is_cut for prompt in shard.prompts),
      "counts": counts,
      "sha256": digest,
    }
    write_json(self._record_path(shard.index), record)
    return record


def find_cost_left(
  progress: Mapping[str, Any], hourly_price: float | None
) -> float | None:
  """What the rest of the work will cost at the rate so far.

  Args:
    progress: `n`, `initial`, `total` and `elapsed` (in seconds) of tqdm.
    hourly_price: of all devices at work.

  >>> done = {"n": 30, "initial": 10, "total": 50, "elapsed": 3600.0}
  >>> find_cost_left(done, 8.0)
  8.0
  """
  done = progress["n"] - progress["initial"]
  if hourly_price is None or done <= 0:
    return None
  hours = (
    (progress["total"] - progress["n"]) / done * progress["elapsed"] / 3600
  )
  return hours * hourly_price


def wait_until(is_so: Callable[[], bool]) -> None:
  """Waits for what another process does, if there is one."""
  while not is_so():
    time.sleep(_SECONDS_BETWEEN_LOOKS)


def _count(passages: Sequence[Passage], written: WrittenQueries) -> Counts:
  rows = zip(passages, written.queries, written.unfinished, strict=True)
  return add_counts(count_signs(*row) for row in rows)


def _write_gzip(
  path: pathlib.Path,
  passages: Sequence[Passage],
  queries: Sequence[Mapping[str, Sequence[str]]],
) -> None:
  """Writes the released form; neither time nor name gets into the bytes."""
  with (
    open(path, "wb") as raw,
    gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed,
    io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as file,
  ):
    for passage, by_language in zip(passages, queries, strict=True):
      write_generated_queries(file, passage, by_language)
