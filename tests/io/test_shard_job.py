"""The loop over shards: killed at each step, damaged, shared by processes."""

import dataclasses
import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading

import pytest

from xqg_jax.errors import InputError
from xqg_jax.io.locations import Location
from xqg_jax.io.paths import to_path
from xqg_jax.io.scratch import open_scratch
from xqg_jax.io.shard_job import (
  ShardJob,
  Turn,
  collect_records,
  cut_stream,
  find_finished,
  make_missing,
  run_shards,
)

STEPS = ("read", "prepare", "make", "write", "record", "finish")
# For children that import this file.
PYTHONPATH = os.pathsep.join(
  str(pathlib.Path(__file__).parents[i]) for i in (0, 2)
)


@dataclasses.dataclass
class Squares(ShardJob[list[int], list[int], str]):
  """Writes the squares of 0 to 9, three a shard, and stops where it is told."""

  folder: Location
  num_shards: int | None = 4
  stop_at: tuple[str, int] | None = None
  stop: object = KeyboardInterrupt
  overlaps: bool = True
  scratch: str | None = None
  task: str = "square"
  unit: str = "numbers"
  total: int = 10

  def __post_init__(self):
    self.steps = []
    self.begun_with = None

  def _reach(self, step, index):
    self.steps.append((step, index))
    if (step, index) == self.stop_at:
      if self.stop == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
      raise self.stop

  def name_shard(self, index):
    return f"squares-{index}.txt"

  def read(self):
    for index, part in enumerate(cut_stream(range(10), 3)):
      self._reach("read", index)
      yield index, list(part)

  def prepare(self, raw):
    self._reach("prepare", raw[0])
    return raw

  def make(self, work, bar):
    del bar
    index, numbers = work
    self._reach("make", index)
    return index, [number**2 for number in numbers]

  def write(self, place, made):
    index, squares = made
    with open(place, "w") as file:
      for number in squares:
        file.write(f"{number}\n")
        file.flush()
        self._reach("write", index)
    return {"rows": len(squares), "sum": sum(squares)}

  def replace(self, name):
    index = int(name[len("squares-")])
    job, around = self, super().replace(name)

    class Replacing:
      def __enter__(self):
        return around.__enter__()

      def __exit__(self, *error):
        around.__exit__(*error)
        if error[0] is None:  # has its name, and not its record
          job._reach("record", index)

    return Replacing()

  def begin(self, records):
    self.begun_with = sorted(records)

  def finish(self, index, record, bar):
    self._reach("finish", index)


def _run(folder, **options):
  job = Squares(Location.of(folder), **options)
  return job, run_shards(job)


def _read(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob("*"))
    if path.is_file()
  }


def _made(job):
  return [index for step, index in job.steps if step == "make"]


SUMS = [0 + 1 + 4, 9 + 16 + 25, 36 + 49 + 64, 81]


@pytest.mark.parametrize("overlaps", [True, False])
@pytest.mark.parametrize("num_shards", [4, None])
def test_shards_and_records_are_written(tmp_path, num_shards, overlaps):
  _, records = _run(tmp_path, num_shards=num_shards, overlaps=overlaps)
  assert [record["sum"] for record in records] == SUMS
  assert [record["rows"] for record in records] == [3, 3, 3, 1]
  found = _read(tmp_path)
  assert sorted(found) == [
    *(f"finished/squares-{i}.json" for i in range(4)),
    *(f"squares-{i}.txt" for i in range(4)),
  ]
  assert found["squares-1.txt"] == b"9\n16\n25\n"
  assert json.loads(found["finished/squares-1.json"]) == records[1]
  assert records[1] == {
    "name": "squares-1.txt",
    "rows": 3,
    "sum": 50,
    "sha256": hashlib.sha256(b"9\n16\n25\n").hexdigest(),
  }


@pytest.mark.parametrize("num_shards", [4, None])
@pytest.mark.parametrize("index", [0, 1, 3])
@pytest.mark.parametrize("step", STEPS)
def test_stopped_at_any_step_it_ends_with_the_same_bytes(
  tmp_path, step, index, num_shards
):
  _run(tmp_path / "whole")
  with pytest.raises(KeyboardInterrupt):
    _run(tmp_path / "broken", stop_at=(step, index), num_shards=num_shards)
  kept = {path.stem for path in (tmp_path / "broken").glob("finished/*")}
  job, records = _run(tmp_path / "broken", num_shards=num_shards)
  assert [record["sum"] for record in records] == SUMS
  assert _read(tmp_path / "broken") == _read(tmp_path / "whole")
  assert _made(job) == [i for i in range(4) if f"squares-{i}" not in kept]
  # What was finished before the stop is never lost: all but the last two.
  assert {f"squares-{i}" for i in range(index - 1)} <= kept


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_it_ends_with_the_same_bytes(tmp_path, step):
  _run(tmp_path / "whole")
  script = (
    "import sys, test_shard_job as t\n"
    "from xqg_jax.io.locations import Location\n"
    "t._run(Location.of(sys.argv[1]), stop_at=(sys.argv[2], 2), stop='kill')"
  )
  done = subprocess.run(
    [sys.executable, "-c", script, str(tmp_path / "broken"), step],
    env=os.environ | {"PYTHONPATH": PYTHONPATH},
    stderr=subprocess.DEVNULL,
    check=False,
  )
  assert done.returncode == -signal.SIGKILL
  _run(tmp_path / "broken")
  assert _read(tmp_path / "broken") == _read(tmp_path / "whole")


def test_what_is_finished_is_not_made_nor_read_again(tmp_path):
  _, records = _run(tmp_path)
  job, again = _run(tmp_path)
  assert again == records
  assert job.steps == []
  assert job.begun_with == [0, 1, 2, 3]
  job, again = _run(tmp_path, num_shards=None)  # has to count them
  assert again == records
  assert {step for step, _ in job.steps} == {"read"}


@pytest.mark.parametrize(
  ("harm", "told"),
  [
    (lambda p: p.write_bytes(b"9\n16\n26\n"), "squares-1.txt: differs from"),
    (lambda p: p.write_bytes(b""), "squares-1.txt: differs from its checksum"),
    (lambda p: p.unlink(), "squares-1.txt: is missing"),
    (lambda p: (p.unlink(), p.mkdir()), "squares-1.txt: is missing"),
  ],
)
def test_a_damaged_shard_is_told_of_and_made_again(
  tmp_path, capsys, harm, told
):
  _run(tmp_path)
  expected = _read(tmp_path)
  harm(tmp_path / "squares-1.txt")
  capsys.readouterr()
  job, records = _run(tmp_path)
  assert _made(job) == [1]
  assert [record["sum"] for record in records] == SUMS
  assert _read(tmp_path) == expected
  lines = capsys.readouterr().err.splitlines()
  (line,) = [line for line in lines if "again" in line]
  assert line.startswith("xqg: square: making it again: ")
  assert told in line


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"name": 3}', "null"])
def test_a_damaged_record_counts_as_none(tmp_path, content):
  _run(tmp_path)
  expected = _read(tmp_path)
  (tmp_path / "finished" / "squares-2.json").write_text(content)
  job, _ = _run(tmp_path)
  assert _made(job) == [2]
  assert _read(tmp_path) == expected


def test_a_shard_without_its_record_is_made_again(tmp_path):
  _run(tmp_path)
  expected = _read(tmp_path)
  (tmp_path / "finished" / "squares-3.json").unlink()
  job, _ = _run(tmp_path)
  assert _made(job) == [3]
  assert _read(tmp_path) == expected


# ------------------------------------------------------------------ processes


def test_two_processes_write_what_one_does(tmp_path):
  _, expected = _run(tmp_path / "one")
  first, second = (Squares(Location.of(tmp_path / "two")) for _ in range(2))
  with pytest.raises(InputError, match=r"squares-1.json: another process"):
    run_shards(first, turn=Turn(0, 2))
  assert _made(first) == [0, 2]
  assert run_shards(second, turn=Turn(1, 2)) == expected
  assert _made(second) == [1, 3]
  assert _read(tmp_path / "two") == _read(tmp_path / "one")


def test_processes_side_by_side_do_not_disturb_each_other(tmp_path):
  _, expected = _run(tmp_path / "one")
  jobs = [Squares(Location.of(tmp_path / "three")) for _ in range(3)]
  records = [{}, {}, {}]
  threads = [
    threading.Thread(target=make_missing, args=(job, Turn(i, 3), records[i]))
    for i, job in enumerate(jobs)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert [sorted(some) for some in records] == [[0, 3], [1], [2]]
  assert collect_records(jobs[0], records[0]) == expected
  assert _read(tmp_path / "three") == _read(tmp_path / "one")


def test_a_process_repairs_its_own_shards_only(tmp_path):
  _run(tmp_path)
  for index in (0, 1):
    (tmp_path / f"squares-{index}.txt").write_text("0\n")
  job = Squares(Location.of(tmp_path))
  assert sorted(find_finished(job, Turn(0, 2))) == [2]
  run_shards(job, turn=Turn(0, 2))
  assert _made(job) == [0]
  assert (tmp_path / "squares-0.txt").read_text() == "0\n1\n4\n"
  assert (tmp_path / "squares-1.txt").read_text() == "0\n"


def test_shards_in_a_bucket_are_those_of_a_folder(tmp_path):
  _, expected = _run(tmp_path)
  bucket = f"memory://squares{tmp_path}"
  _, records = _run(bucket)
  assert records == expected
  (to_path(bucket) / "squares-2.txt").write_text("0\n")
  job, records = _run(bucket)
  assert records == expected
  assert _made(job) == [2]
  assert {
    str(path.relative_to(to_path(bucket))): path.read_bytes()
    for path in to_path(bucket).walk_files()
  } == _read(tmp_path)


# ------------------------------------------------------------------ the stream


def test_a_part_that_is_not_read_is_skipped():
  parts = cut_stream(iter(range(8)), 3)
  assert list(next(parts)) == [0, 1, 2]
  assert next(next(parts)) == 3
  assert list(next(parts)) == [6, 7]
  assert list(parts) == []
  assert list(cut_stream([], 3)) == []


def test_scratch_that_a_killed_run_left_is_deleted(tmp_path):
  _run(tmp_path)
  (tmp_path / ".scratch").mkdir()
  (tmp_path / ".scratch" / "left").touch()
  job, _ = _run(tmp_path, scratch=".scratch")
  assert job.steps == []
  assert not (tmp_path / ".scratch").exists()


def test_scratch_is_empty_at_first_and_gone_at_last(tmp_path):
  (tmp_path / ".scratch").mkdir()
  (tmp_path / ".scratch" / "left").touch()
  with open_scratch(Location.of(tmp_path), ".scratch") as scratch:
    assert scratch == tmp_path / ".scratch"
    assert list(scratch.iterdir()) == []
    (scratch / "half").touch()
  assert list(tmp_path.iterdir()) == []
  with open_scratch(Location.of("memory://bucket/x"), ".scratch") as scratch:
    assert list(scratch.iterdir()) == []
  assert not scratch.exists()
