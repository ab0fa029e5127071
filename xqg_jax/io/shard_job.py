"""Output written shard by shard: made, checked, recorded and resumed.

    FOLDER/NAME                  a shard, a file or a folder: whole or absent
    FOLDER/finished/NAME.json    its record: checksums, and what else is known

A record is written after its shard, and without one there is no shard. What
is there is read back and compared with its checksums before it counts: a
damaged shard is named on standard error and made again. So a run that was
killed goes on where it was, and ends with the bytes of an unbroken one.
"""

import collections
import contextlib
import dataclasses
import itertools
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypedDict, TypeVar, cast

import jax
import tqdm

from xqg_jax.errors import InputError
from xqg_jax.io.files import atomic_path, check_file, sha256_file
from xqg_jax.io.locations import Location, cannot_write
from xqg_jax.io.manifests import tell_of_damage
from xqg_jax.io.progress import Progress
from xqg_jax.runtime.prefetch import prefetch
from xqg_jax.runtime.processes import wait_for_all

FINISHED_FOLDER = "finished"
# Records of other processes that are read at a time, as buckets answer slowly.
_NUM_READERS = 16

Record = dict[str, Any]


class FileRecord(TypedDict):
  """What the record of every shard notes that is a file."""

  name: str
  sha256: str


Raw = TypeVar("Raw")
Work = TypeVar("Work")
Made = TypeVar("Made")


@dataclasses.dataclass(frozen=True)
class Turn:
  """The shards of one of several processes: every `count`-th from `index`."""

  index: int = 0
  count: int = 1

  @classmethod
  def of_this_process(cls) -> "Turn":
    """This process's among those joined by `jax.distributed`."""
    return cls(jax.process_index(), jax.process_count())

  def has(self, shard: int) -> bool:
    """Whether the shard of this number is this process's.

    >>> [Turn(1, 3).has(shard) for shard in range(6)]
    [False, True, False, False, True, False]
    """
    return shard % self.count == self.index


class ShardJob(Generic[Raw, Work, Made]):
  """What a verb does with one shard; `run_shards` does all the rest.

  While `make` is at one shard, a thread reads and prepares the next and
  another writes the last.

  Attributes:
    folder: that the shards lie in.
    num_shards: how many there are; None: as many as `read` yields, which one
      process finds out by reading it all.
    task: names the work in the progress line.
    schema: of the shards' records.
    unit: what the progress line counts.
    total: how many of them there are; None: not known.
    counts_itself: whether `make` moves the progress line on; else it moves by
      `size` when a shard is finished.
    scratch: name of a folder that `read` opens by `open_scratch`.
    overlaps: False does one thing after the other, for what `read` yields is
      read while it is written.
  """

  folder: Location
  num_shards: int | None
  task: str
  schema: type = FileRecord
  unit: str = "passages"
  total: int | None = None
  counts_itself: bool = False
  scratch: str | None = None
  overlaps: bool = True

  def name_shard(self, index: int) -> str:
    """The name of a shard's file or folder."""
    raise NotImplementedError

  def read(self) -> Iterable[Raw]:
    """Streams what the shards are made of: all of them, in order."""
    raise NotImplementedError

  def prepare(self, raw: Raw) -> Work:
    """Gets a shard ready for `make`, on the host; as it is by default."""
    return cast(Work, raw)

  def make(self, work: Work, bar: tqdm.tqdm) -> Made:
    """Makes a shard's content, on the devices if it needs any.

    Args:
      work: what `prepare` returned.
      bar: the progress line.
    """
    del bar
    return cast(Made, work)

  def write(self, place: Location, made: Made) -> Record:
    """Writes the content to `place`; returns facts for the record.

    A file is given its checksum by `run_shards`; who writes a folder has to
    return the checksums as `sha256`, by name.
    """
    raise NotImplementedError

  def check(self, record: Record) -> None:
    """Compares a shard with its record.

    Raises:
      InputError: it is damaged or missing.
    """
    check_file(self.folder / record["name"], record["sha256"])

  def replace(self, name: str) -> contextlib.AbstractContextManager[Location]:
    """Yields where to write a shard that gets its name when it is whole."""
    return _replace(self.folder / name)

  def size(self, record: Record) -> int:
    """What a shard adds to the progress line."""
    return record["rows"]

  def begin(self, records: Mapping[int, Record]) -> None:
    """Is told what was found finished, before anything is made."""

  def finish(self, index: int, record: Record, bar: tqdm.tqdm) -> None:
    """Is told of each shard that is made; may stop the work by raising."""


@contextlib.contextmanager
def _replace(place: Location) -> Iterator[Location]:
  place.delete()
  with atomic_path(place) as partial:
    yield Location.of(partial)


# -------------------------------------------------------------------- the loop


def run_shards(
  job: ShardJob[Raw, Work, Made], *, turn: Turn | None = None
) -> list[Record]:
  """Makes the shards that are missing or damaged.

  Args:
    job: what is to be done.
    turn: which of the shards are this process's; all of them when absent.
      Several processes wait for each other at the end.

  Returns:
    The records of all shards, in order.

  Raises:
    InputError: what the job raises; what is finished is kept.
  """
  turn = turn or Turn()
  records = find_finished(job, turn)
  make_missing(job, turn, records)
  if job.scratch and job.folder.is_local:  # a killed run may have left it
    shutil.rmtree(pathlib.Path(job.folder, job.scratch), ignore_errors=True)
  wait_for_all(f"shards of {job.folder}")
  return collect_records(job, records)


def find_finished(
  job: ShardJob[Raw, Work, Made], turn: Turn
) -> dict[int, Record]:
  """The records of a process's sound shards, where their number is known."""
  indices = filter(turn.has, range(job.num_shards or 0))
  found = {index: read_record(job, index) for index in indices}
  return {i: record for i, record in found.items() if record is not None}


def read_record(job: ShardJob[Raw, Work, Made], index: int) -> Record | None:
  """The record of a sound shard; None where there is none.

  A shard that is there and damaged is told of on standard error.
  """
  name = job.name_shard(index)
  try:
    record = _load_record(job, name)
    if record is not None:
      job.check(record)
  except InputError as error:
    tell_of_damage(job.task, error)
    return None
  return record


def _load_record(job: ShardJob[Raw, Work, Made], name: str) -> Record | None:
  """Reads the record of a shard; None where there is none.

  Raises:
    InputError: it is not one, or that of another shard.
  """
  place = _record_place(job.folder, name)
  record = place.read_json(job.schema)
  if record is not None and record["name"] != name:
    raise InputError(
      f"is the record of {record['name']}",
      where=place,
      mend="run the same command again to mend it",
    )
  return record


def make_missing(
  job: ShardJob[Raw, Work, Made], turn: Turn, records: dict[int, Record]
) -> None:
  """Makes the shards of a process's turn that `records` lacks; adds theirs."""
  job.begin(records)
  own = filter(turn.has, range(job.num_shards or 0))
  if job.num_shards is not None and all(index in records for index in own):
    return
  to_do = _list_work(job, turn, records)
  done = sum(map(job.size, records.values()))
  with (
    Progress(
      desc=job.task, unit=f" {job.unit}", total=job.total, initial=done
    ) as bar,
    _Writer(job, bar, records) as writer,
  ):
    for index, work in prefetch(to_do) if job.overlaps else to_do:
      writer.write(index, job.make(work, bar))
      if not job.overlaps:
        writer.wait()


def _list_work(
  job: ShardJob[Raw, Work, Made], turn: Turn, records: dict[int, Record]
) -> Iterator[tuple[int, Work]]:
  for index, raw in enumerate(job.read()):
    if job.num_shards is None and (found := read_record(job, index)):
      records[index] = found
    if turn.has(index) and index not in records:
      yield index, job.prepare(raw)


class _Writer:
  """Writes one shard, and its record, while the next is made."""

  def __init__(
    self,
    job: ShardJob[Any, Any, Any],
    bar: tqdm.tqdm,
    records: dict[int, Record],
  ):
    self._job, self._bar, self._records = job, bar, records
    self._pool = ThreadPoolExecutor(1)
    self._writing: tuple[int, Future[Record]] | None = None

  def __enter__(self) -> "_Writer":
    return self

  def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
    """Waits for the last shard; if the work failed, it is still written."""
    try:
      if kind is None:
        self.wait()
    finally:
      self._pool.shutdown()

  def write(self, index: int, made: Any) -> None:
    """Begins to write a shard, once the last one is written."""
    self.wait()
    future = self._pool.submit(write_shard, self._job, index, made)
    self._writing = index, future

  def wait(self) -> None:
    """Waits for the shard that is being written, and enters its record."""
    if self._writing is None:
      return
    (index, future), self._writing = self._writing, None
    record = self._records[index] = future.result()
    if not self._job.counts_itself:
      self._bar.update(self._job.size(record))
    self._job.finish(index, record, self._bar)


def write_shard(
  job: ShardJob[Raw, Work, Made], index: int, made: Made
) -> Record:
  """Writes one shard, all of it or nothing, then its record.

  Raises:
    InputError: what the job raises, or that it cannot be written.
  """
  name = job.name_shard(index)
  try:
    with job.replace(name) as place:
      facts = job.write(place, made)
      if "sha256" not in facts:
        facts["sha256"] = sha256_file(place)
  except OSError as error:
    raise cannot_write(job.folder / name, error) from None
  record = {"name": name, **facts}
  _record_place(job.folder, name).write_json(record)
  return record


def _record_place(folder: Location, name: str) -> Location:
  """Where the record of a shard lies.

  >>> str(_record_place(Location("/data"), "part-0.jsonl.gz"))
  '/data/finished/part-0.json'
  """
  return folder / FINISHED_FOLDER / f"{name.partition('.')[0]}.json"


def collect_records(
  job: ShardJob[Raw, Work, Made], records: Mapping[int, Record]
) -> list[Record]:
  """The records of all shards in order, with those of other processes.

  Raises:
    InputError: another process's shard is not there.
  """
  count = len(records) if job.num_shards is None else job.num_shards
  others = [index for index in range(count) if index not in records]
  with ThreadPoolExecutor(_NUM_READERS) as pool:
    found = pool.map(lambda index: _read_other(job, index), others)
    every = {**records, **dict(zip(others, found, strict=True))}
  return [every[index] for index in range(count)]


def _read_other(job: ShardJob[Raw, Work, Made], index: int) -> Record:
  name = job.name_shard(index)
  record = _load_record(job, name)
  if record is None:
    raise InputError(
      "another process should have written it",
      where=_record_place(job.folder, name),
      mend="give all processes an OUTPUT_DIR that they share",
    )
  return record


# ------------------------------------------------------------------- the input


def cut_stream(items: Iterable[Raw], size: int) -> Iterator[Iterator[Raw]]:
  """Cuts a stream into parts of `size` items; the last has the rest.

  A part is read before the next is asked for; what is left of it is skipped.

  >>> [list(part) for part in cut_stream("abcde", 2)]
  [['a', 'b'], ['c', 'd'], ['e']]
  """
  items = iter(items)
  for first in items:
    part = itertools.chain([first], itertools.islice(items, size - 1))
    yield part
    collections.deque(part, maxlen=0)
