"""Compilation of a planned step, for local or absent devices.

For TPUs that are not here the work is done in a process of its own. It is ended
as soon as the compiler has optimised, partitioned and scheduled the program
and assigned its memory: writing machine code would take ten times as long and
tell nothing more.
"""

import dataclasses
import multiprocessing
import os
import pathlib
import re
import tempfile
import time
import traceback
from multiprocessing.process import BaseProcess
from typing import Any

import jax

from xqg_jax.errors import InputError, NativeError
from xqg_jax.io.files import read_json, write_json
from xqg_jax.io.progress import Progress
from xqg_jax.planning.steps import PlannedStep, Recipe, count_device_bytes
from xqg_jax.runtime.chips import LOCAL, find_devices
from xqg_jax.runtime.program_costs import count_flops, count_traffic
from xqg_jax.runtime.sharding import check_batch_size, make_mesh

_FACTS_FILE, _ERROR_FILE = "facts.json", "error.json"
# The last of the compiler's files before it writes machine code.
_PROGRAM_FILES = "*after_optimizations_after_buffer_assignment.txt"
_MEMORY_FILES = "*memory-usage-report.txt"
_MEMORY_TOTAL = re.compile(
  r"Memory Space: default \(color=0\)\s+Total bytes: (\d+)"
)
# The two ways to say it: all of it, or temporaries alone.
_USED = re.compile(r"[Uu]sed ([\d.]+)([KMGT]?) of")
_TEMPORARIES = re.compile(r"HLO temporaries \(([\d.]+)([KMGT]?)\)")
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_SECONDS_BETWEEN_LOOKS = 0.5
# Where memory is short the compiler tries for hours to compute things twice
# instead of keeping them; a program that fits takes it minutes.
_MAX_SECONDS = 1800


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
  """What a compiled step takes.

  Attributes:
    batch_size: over all devices.
    num_partitions: devices over which parameters are split.
    num_devices: of the mesh.
    num_units: how much the step does.
    unit: of what.
    parameter_bytes: of each device, and so the following.
    optimizer_bytes: of its state.
    input_bytes: of the batch and whatever else comes in.
    total_bytes: of main memory at the peak; None if it exceeds the device's and
      the compiler does not say by how much.
    exceeds: whether the compiler says that memory does not suffice, or finds no
      way to make it suffice within half an hour.
    flops: of the matrix products of a step, over all devices.
    memory_traffic: bytes that a device reads and writes.
    sent: bytes that a device sends to others, by kind of operation.
    seconds: that compiling took.
  """

  batch_size: int
  num_partitions: int
  num_devices: int
  num_units: int
  unit: str
  parameter_bytes: int
  optimizer_bytes: int
  input_bytes: int
  total_bytes: float | None
  exceeds: bool
  flops: float
  memory_traffic: float | None
  sent: dict[str, float] | None
  seconds: float

  @property
  def temporary_bytes(self) -> float | None:
    """Activations, gradients and whatever else comes and goes in a step."""
    if self.total_bytes is None:
      return None
    held = self.parameter_bytes + self.optimizer_bytes + self.input_bytes
    return self.total_bytes - held

  def fits(self, memory: float | None) -> bool:
    """Whether it fits into so much memory (None: unlimited)."""
    if self.exceeds:
      return False
    if memory is None:
      return True
    return self.total_bytes is not None and self.total_bytes <= memory


def measure_step(
  recipe: Recipe, *, topology: str, num_partitions: int, batch_size: int | None
) -> Measured:
  """Compiles a step and measures it.

  Args:
    recipe: the step.
    topology: `local` or a name for `topologies.find_devices`.
    num_partitions: devices over which parameters are split.
    batch_size: over all devices; None: the stage's own.

  Raises:
    InputError: what cannot be split or laid out so.
    NativeError: the compiler died.
  """
  arguments = (recipe, topology, num_partitions, batch_size)
  if topology == LOCAL:
    return _measure_here(*arguments)
  with tempfile.TemporaryDirectory(prefix="xqg_plan_") as folder:
    return _measure_ahead(pathlib.Path(folder), *arguments)


def make_planned_step(
  recipe: Recipe, topology: str, num_partitions: int, batch_size: int | None
) -> tuple[PlannedStep, dict[str, Any]]:
  """Makes a step on a topology, with what is known before it is compiled."""
  devices = find_devices(topology)
  try:
    mesh = make_mesh(num_partitions, devices)
  except ValueError as error:
    raise InputError(str(error), mend="choose another NUM_PARTITIONS") from None
  batch_size = batch_size or recipe.default_batch_size(mesh)
  check_batch_size(mesh, batch_size)
  step = recipe.make_step(mesh, batch_size)
  held = {
    "parameter_bytes": count_device_bytes(step.params),
    "optimizer_bytes": count_device_bytes(step.optimizer_state),
  }
  return step, {
    "batch_size": batch_size,
    "num_partitions": num_partitions,
    "num_devices": len(devices),
    "num_units": step.num_units,
    "unit": step.unit,
    **held,
    "input_bytes": count_device_bytes(step.arguments) - sum(held.values()),
  }


# ------------------------------------------------------------------------- here


def _measure_here(
  recipe: Recipe, topology: str, num_partitions: int, batch_size: int | None
) -> Measured:
  started = time.perf_counter()
  step, facts = make_planned_step(recipe, topology, num_partitions, batch_size)
  traced = step.trace()
  flops = count_flops(traced.jaxpr, unknown_trips=step.unknown_trips)
  compiled = traced.lower().compile()
  sizes = compiled.memory_analysis()
  traffic = count_traffic(
    compiled.as_text(),
    num_devices=facts["num_devices"],
    unknown_trips=step.unknown_trips,
  )
  return Measured(
    **facts,
    total_bytes=(
      sizes.argument_size_in_bytes
      + sizes.output_size_in_bytes
      - sizes.alias_size_in_bytes
      + sizes.temp_size_in_bytes
      + sizes.generated_code_size_in_bytes
    ),
    exceeds=False,
    flops=flops,
    memory_traffic=traffic.memory,
    sent=traffic.sent,
    seconds=time.perf_counter() - started,
  )


# ------------------------------------------------------------------------ ahead


def _measure_ahead(
  folder: pathlib.Path,
  recipe: Recipe,
  topology: str,
  num_partitions: int,
  batch_size: int | None,
) -> Measured:
  started = time.perf_counter()
  spawn = multiprocessing.get_context("spawn")
  process = spawn.Process(
    target=_compile_ahead,
    args=(folder, recipe, topology, num_partitions, batch_size),
    daemon=True,
  )
  process.start()
  try:
    batch = "its own batch" if batch_size is None else f"batch {batch_size}"
    _wait(process, folder, f"{batch}, {num_partitions} partitions, {topology}")
  finally:
    process.kill()
    process.join()
  error = _read(folder / _ERROR_FILE)
  if "input_error" in error:
    raise InputError(error["input_error"])
  facts = _read(folder / _FACTS_FILE)
  if not facts or ("failed" in error and not _is_out_of_memory(error)):
    what = error.get("failed", f"ended with status {process.exitcode}")
    raise NativeError(f"the compiler for {topology} failed: {what}")
  unknown_trips = facts.pop("unknown_trips")
  if _is_out_of_memory(error):
    measured = {
      "total_bytes": _parse_used(error["failed"], _sum_held(facts)),
      "exceeds": True,
      "memory_traffic": None,
      "sent": None,
    }
  else:
    measured = _read_dump(folder, facts["num_devices"], unknown_trips)
  seconds = time.perf_counter() - started
  return Measured(**facts, **measured, seconds=seconds)


def _sum_held(facts: dict[str, Any]) -> float:
  names = ("parameter_bytes", "optimizer_bytes", "input_bytes")
  return sum(facts[name] for name in names)


def _read(path: pathlib.Path) -> dict[str, Any]:
  return read_json(path, dict[str, Any]) if path.exists() else {}


def _wait(process: BaseProcess, folder: pathlib.Path, what: str) -> None:
  """Waits until memory is assigned or the process has ended."""
  with Progress(
    desc=f"compile {what}", bar_format="{desc}: {elapsed}", mininterval=1
  ) as progress:
    size, started = -1, time.perf_counter()
    while process.is_alive():
      if time.perf_counter() - started > _MAX_SECONDS:
        late = f"RESOURCE_EXHAUSTED: no answer in {_MAX_SECONDS} s"
        write_json(folder / _ERROR_FILE, {"failed": late})
        return
      time.sleep(_SECONDS_BETWEEN_LOOKS)
      progress.update()
      program = next(folder.glob(_PROGRAM_FILES), None)
      now = program.stat().st_size if program else -1
      if 0 < now == size:  # it grows no more
        return
      size = now


def _read_dump(
  folder: pathlib.Path, num_devices: int, unknown_trips: int
) -> dict[str, Any]:
  report = next(folder.glob(_MEMORY_FILES)).read_text()
  total = _MEMORY_TOTAL.search(report)
  if total is None:
    raise NativeError("the compiler's report of memory names no total")
  program = next(folder.glob(_PROGRAM_FILES)).read_text()
  traffic = count_traffic(
    program, num_devices=num_devices, unknown_trips=unknown_trips
  )
  return {
    "total_bytes": float(total[1]),
    "exceeds": False,
    "memory_traffic": traffic.memory,
    "sent": traffic.sent,
  }


def _is_out_of_memory(error: dict[str, str]) -> bool:
  return "RESOURCE_EXHAUSTED" in error.get("failed", "")


def _parse_used(message: str, held: float) -> float | None:
  """Bytes that the compiler says it would need.

  Args:
    message: its own.
    held: bytes of the arguments, which it may not count.

  >>> _parse_used("temporaries (2G) exceeds available HBM (1.5G)", 0)
  >>> (
  ...   _parse_used("HLO temporaries (2G) exceeds available HBM (1.5G)", 1)
  ...   - 2**31
  ... )
  1.0
  """
  total, temporaries = _USED.search(message), _TEMPORARIES.search(message)
  found = total or temporaries
  if found is None:
    return None
  needed = float(found[1]) * 1024 ** _POWERS[found[2]]
  return needed if total else needed + held


def _compile_ahead(
  folder: pathlib.Path,
  recipe: Recipe,
  topology: str,
  num_partitions: int,
  batch_size: int | None,
) -> None:
  """Runs in the other process; leaves facts, error and the compiler's files."""
  # Only the description of a TPU is wanted: no accelerator may be taken.
  jax.config.update("jax_platforms", "cpu")
  os.environ.update(JAX_PLATFORMS="cpu", TPU_STDERR_LOG_LEVEL="3")
  error: dict[str, str] = {}
  try:
    step, facts = make_planned_step(
      recipe, topology, num_partitions, batch_size
    )
    traced = step.trace()
    trips = step.unknown_trips
    facts["flops"] = count_flops(traced.jaxpr, unknown_trips=trips)
    write_json(folder / _FACTS_FILE, {**facts, "unknown_trips": trips})
    traced.lower().compile(
      compiler_options={
        "xla_dump_to": str(folder),
        "xla_dump_hlo_as_text": True,
      }
    )
  except InputError as problem:
    error = {"input_error": str(problem)}
  except Exception as problem:  # the compiler raises many kinds
    error = {"failed": str(problem) or traceback.format_exc()}
  write_json(folder / _ERROR_FILE, error)
