"""Query generation job: a health check on a sample, then shard by shard.

Each of several processes writes the shards of its own turn, and none waits for
another before its last one. What they tell each other lies in the folder.
"""

import dataclasses
import itertools
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import tqdm

from xqg_jax.data.passages import Passage, read_passages
from xqg_jax.errors import InputError
from xqg_jax.generation.health import (
  Counts,
  add_counts,
  count_signs,
  find_faults,
  format_health,
  to_shares,
)
from xqg_jax.generation.query_files import QueryShards, Record
from xqg_jax.generation.query_writer import Prompt, QueryWriter, WrittenQueries
from xqg_jax.io.files import read_json, write_json
from xqg_jax.runtime.prefetch import prefetch

SAMPLE_FILE = "health_sample.json"
# Passages of the sample whose queries are kept to be looked at.
_NUM_EXAMPLES = 5
_SECONDS_BETWEEN_LOOKS = 0.5


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

  @property
  def files(self) -> QueryShards:
    """The shards on disk."""
    return QueryShards(self.folder, self.num_shards)

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
    ledger = Ledger(len(own))
    for index in own:
      if (record := self.files.read_record(index)) is not None:
        ledger.add(record)
    ledger.start()
    missing = set(own) - ledger.records.keys()
    writing: Future[Record] | None = None
    with self._start_progress(own, ledger) as progress:
      with ThreadPoolExecutor(1) as pool:
        for shard in prefetch(self._prepare(missing)):
          written = self.writer.write_prompts(
            shard.prompts, len(shard.passages), on_progress=progress.update
          )
          # The last shard is written while the devices go on with the next.
          self._finish(writing, ledger, progress)
          writing = pool.submit(self._write_shard, shard, written)
        self._finish(writing, ledger, progress)
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
    self, writing: Future[Record] | None, ledger: "Ledger", progress: tqdm.tqdm
  ) -> None:
    """Waits for the shard being written, and looks at how all are."""
    if writing is None:
      return
    ledger.add(writing.result())
    progress.set_postfix_str(ledger.describe(self.hourly_price))
    self._judge(ledger.counts, "queries so far")

  def _start_progress(self, own: range, ledger: "Ledger") -> tqdm.tqdm:
    done = sum(map(self._shard_length, ledger.records))
    settings = self.writer.settings
    per_passage = len(settings.languages) * settings.num_queries
    return tqdm.tqdm(
      total=sum(map(self._shard_length, own)) * per_passage,
      initial=done * per_passage,
      desc="generate",
      unit=" queries",
    )

  def _shard_length(self, index: int) -> int:
    start = index * self.shard_size
    return min(self.shard_size, self.num_passages - start)

  def _collect_records(self) -> list[Record]:
    """The records of all shards, once the other processes have theirs."""
    paths = [self.files.record_path(index) for index in range(self.num_shards)]
    for path in paths:
      wait_until(path.exists)
    return [read_json(path) for path in paths]

  def _write_shard(self, shard: Shard, written: WrittenQueries) -> Record:
    counts = _count(shard.passages, written)
    facts = {
      "num_passages": len(shard.passages),
      "num_queries": sum(row["queries"] for row in counts.values()),
      "num_cut_prompts": sum(prompt.is_cut for prompt in shard.prompts),
      "counts": counts,
    }
    rows = zip(shard.passages, written.queries, strict=True)
    return self.files.write(shard.index, rows, facts)


class Ledger:
  """Progress of a job: finished shards, their health, the cost of the rest."""

  def __init__(self, num_shards: int):
    """Starts with none of `num_shards` shards done."""
    self.num_shards = num_shards
    self.records: dict[int, Record] = {}
    self.counts: Counts = {}
    self.start()

  def start(self) -> None:
    """Takes what is there as done before, and begins to measure time."""
    self._num_before, self._start = len(self.records), time.monotonic()

  def add(self, record: Record) -> None:
    """Enters a finished shard."""
    self.records[record["index"]] = record
    self.counts = add_counts([self.counts, record["counts"]])

  def describe(self, hourly_price: float | None) -> str:
    """Health and costs, for the progress line."""
    shares = to_shares(self.counts)["all"]
    words = [
      f"{100 * shares[sign]:.1f}% {sign.replace('_', ' ')}"
      for sign in ("empty", "duplicate", "wrong_script")
    ]
    cost = find_cost_left(
      len(self.records) - self._num_before,
      self.num_shards - len(self.records),
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


def wait_until(is_so: Callable[[], bool]) -> None:
  """Waits for what another process does, if there is one."""
  while not is_so():
    time.sleep(_SECONDS_BETWEEN_LOOKS)


def _count(passages: Sequence[Passage], written: WrittenQueries) -> Counts:
  rows = zip(passages, written.queries, written.unfinished, strict=True)
  return add_counts(count_signs(*row) for row in rows)
