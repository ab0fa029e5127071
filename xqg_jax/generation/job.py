"""Query generation job: a health check on a sample, then shard by shard.

Each of several processes writes the shards of its own turn, and none waits for
another before its last one. What they tell each other lies in the folder.
"""

import dataclasses
import functools
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

import tqdm

from xqg_jax.data.passages import Passage, read_passages
from xqg_jax.errors import InputError
from xqg_jax.generation.health import (
  Counts,
  CountsRecord,
  SampleRecord,
  add_counts,
  count_signs,
  find_faults,
  format_health,
  to_shares,
)
from xqg_jax.generation.query_files import QueryRecord, QueryShards, Row
from xqg_jax.generation.query_writer import Prompt, QueryWriter, WrittenQueries
from xqg_jax.io.locations import Location
from xqg_jax.io.paths import Path
from xqg_jax.io.shard_job import Record, Turn, cut_stream, run_shards
from xqg_jax.io.typed_json import Count
from xqg_jax.runtime.processes import wait_for_all

SAMPLE_FILE = "health_sample.json"
# Passages of the sample whose queries are kept to be looked at.
_NUM_EXAMPLES = 5


class WrittenRecord(QueryRecord):
  """Of a shard that was written: how its queries look."""

  num_queries: Count
  num_cut_prompts: Count
  counts: dict[str, CountsRecord]


@dataclasses.dataclass(frozen=True)
class Shard:
  """Consecutive passages, with their prompts once they are made."""

  passages: Sequence[Passage]
  prompts: Sequence[Prompt]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationJob(QueryShards[list[Passage], Shard]):
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

  folder: Location
  passages: Path
  num_passages: int
  shard_size: int
  writer: QueryWriter
  turn: Turn = dataclasses.field(default_factory=Turn)
  force: bool = False
  hourly_price: float | None = None
  task: str = "generate"
  schema: type = WrittenRecord
  unit: str = "queries"
  counts_itself: bool = True

  # -------------------------------------------------------------------- health

  def check_sample(self, sample: Sequence[Passage]) -> Counts:
    """Writes queries for a few passages first, and says how they look.

    Raises:
      InputError: unwell, and not forced.
    """
    place = self.folder / SAMPLE_FILE
    if self.turn.index == 0 and place.read_bytes() is None:
      written = self.writer.write(sample)
      counts = _count(sample, written)
      examples = [
        {"docid": passage.passage_id, "generated_queries": queries}
        for passage, queries in zip(sample, written.queries, strict=True)
      ]
      content = {"counts": counts, "examples": examples[:_NUM_EXAMPLES]}
      place.write_json(content)
    wait_for_all(f"sample of {self.folder}")
    counts = place.read_json(SampleRecord)["counts"]
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
    """Writes this process's shards; returns the records of all."""
    return run_shards(self, turn=self.turn)

  @property
  def num_shards(self) -> int:
    """Of all processes."""
    return -(-self.num_passages // self.shard_size)

  @property
  def _own(self) -> list[int]:
    return [i for i in range(self.num_shards) if self.turn.has(i)]

  @property
  def total(self) -> int:
    """Queries of this process."""
    starts = (index * self.shard_size for index in self._own)
    lengths = (min(self.shard_size, self.num_passages - i) for i in starts)
    return sum(lengths) * self._queries_per_passage

  @property
  def _queries_per_passage(self) -> int:
    settings = self.writer.settings
    return len(settings.languages) * settings.num_queries

  def size(self, record: Record) -> int:
    """Queries of a shard."""
    return record["num_passages"] * self._queries_per_passage

  def read(self) -> Iterator[list[Passage]]:
    """Streams the passages of each shard."""
    passages = read_passages(self.passages, on_empty=lambda *_: None)
    return map(list, cut_stream(passages, self.shard_size))

  def prepare(self, raw: Sequence[Passage]) -> Shard:
    """Makes the prompts of a shard."""
    return Shard(raw, self.writer.make_prompts(raw))

  def make(self, work: Shard, bar: tqdm.tqdm) -> tuple[Iterable[Row], Record]:
    """Writes the queries of a shard on the devices."""
    written = self.writer.write_prompts(
      work.prompts, len(work.passages), on_progress=bar.update
    )
    rows = zip(work.passages, written.queries, strict=True)
    return rows, _describe(work, written)

  @functools.cached_property
  def _ledger(self) -> "Ledger":
    return Ledger(len(self._own))

  def begin(self, records: Mapping[int, Record]) -> None:
    """Enters what was finished before."""
    for record in records.values():
      self._ledger.add(record)
    self._ledger.start()

  def finish(self, index: int, record: Record, bar: tqdm.tqdm) -> None:
    """Looks at how all queries are so far.

    Raises:
      InputError: unwell, and not forced.
    """
    del index
    self._ledger.add(record)
    bar.set_postfix_str(self._ledger.describe(self.hourly_price))
    self._judge(self._ledger.counts, "queries so far")


class Ledger:
  """Progress of a job: finished shards, their health, the cost of the rest."""

  def __init__(self, num_shards: int):
    """Starts with none of `num_shards` shards done."""
    self.num_shards, self.num_done = num_shards, 0
    self.counts: Counts = {}
    self.start()

  def start(self) -> None:
    """Takes what is there as done before, and begins to measure time."""
    self._num_before, self._start = self.num_done, time.monotonic()

  def add(self, record: Record) -> None:
    """Enters a finished shard."""
    self.num_done += 1
    self.counts = add_counts([self.counts, record["counts"]])

  def describe(self, hourly_price: float | None) -> str:
    """Health and costs, for the progress line."""
    shares = to_shares(self.counts)["all"]
    words = [
      f"{100 * shares[sign]:.1f}% {sign.replace('_', ' ')}"
      for sign in ("empty", "duplicate", "wrong_script")
    ]
    cost = find_cost_left(
      self.num_done - self._num_before,
      self.num_shards - self.num_done,
      time.monotonic() - self._start,
      hourly_price,
    )
    return ", ".join(words + ([] if cost is None else [f"${cost:,.2f} to go"]))


def find_cost_left(
  num_done: int, num_left: int, seconds: float, hourly_price: float | None
) -> float | None:
  """What the rest of the work will cost at the rate so far.

  Args:
    num_done: how much has been done.
    num_left: how much is to be done.
    seconds: that the former took.
    hourly_price: of all devices at work.

  >>> find_cost_left(20, 40, 1800.0, 8.0)
  8.0
  """
  if hourly_price is None or not num_done:
    return None
  return num_left / num_done * seconds / 3600 * hourly_price


def _describe(shard: Shard, written: WrittenQueries) -> Record:
  counts = _count(shard.passages, written)
  return {
    "num_passages": len(shard.passages),
    "num_queries": sum(row["queries"] for row in counts.values()),
    "num_cut_prompts": sum(prompt.is_cut for prompt in shard.prompts),
    "counts": counts,
  }


def _count(passages: Sequence[Passage], written: WrittenQueries) -> Counts:
  rows = zip(passages, written.queries, written.unfinished, strict=True)
  return add_counts(count_signs(*row) for row in rows)
