"""Training loop: steps, rows of metrics, checkpoints, stop requests."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from xqg_jax.errors import InputError
from xqg_jax.runtime.prefetch import prefetch
from xqg_jax.runtime.sharding import (
  DATA,
  find_batch_part,
  replicated,
  shard_batch,
)
from xqg_jax.runtime.stop_request import StopRequest
from xqg_jax.training.checkpoints import CheckpointWriter
from xqg_jax.training.metrics import MetricsLog
from xqg_jax.training.rows import join_parts
from xqg_jax.training.state import Trainer, TrainState
from xqg_jax.training.throughput import (
  FlopsCounter,
  Throughput,
  batch_key,
  find_peak_flops,
)

HostBatch = Mapping[str, np.ndarray]


@runtime_checkable
class DevMeasure(Protocol):
  """What measures the parameters now and then, such as `DevRetrieval`."""

  def measure(self, params: Any) -> dict[str, float]:
    """Values of the row of the step."""
    ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Periods:
  """After how many steps what is done; the last step has all of it.

  Attributes:
    train_steps: of the whole run.
    log: between rows of metrics.
    checkpoint: between checkpoints.
    dev: between measurements on the dev questions; None: only at the end.
  """

  train_steps: int
  log: int
  checkpoint: int
  dev: int | None = None

  def __post_init__(self):
    for name, value in dataclasses.asdict(self).items():
      if value is not None and value < 1:
        what = name if name == "train_steps" else f"{name}_period"
        raise InputError(
          f"{what.upper()} is {value}", mend="set it to 1 or more"
        )

  def is_due(self, period: int | None, step: int) -> bool:
    """Whether a step ends a period.

    >>> periods = Periods(train_steps=7, log=3, checkpoint=5)
    >>> [step for step in range(1, 8) if periods.is_due(3, step)]
    [3, 6, 7]
    """
    is_last = step == self.train_steps
    return is_last or (period is not None and step % period == 0)


class TrainingLoop:
  """Takes steps until the end of the run, or until it is asked to stop."""

  def __init__(
    self,
    trainer: Trainer,
    state: TrainState,
    *,
    log: MetricsLog,
    writer: CheckpointWriter,
    stop: StopRequest,
    periods: Periods,
    batch_size: int,
    dev: DevMeasure | None = None,
  ):
    """Puts the parts together; nothing is computed yet.

    Args:
      trainer: takes the steps.
      state: where the run stands; the loop takes it over.
      log: for the rows.
      writer: for the checkpoints.
      stop: asked after each step.
      periods: when what is due.
      batch_size: examples of a step over all devices.
      dev: measures the parameters; None: nothing is measured.
    """
    self._trainer = trainer
    self._state = state
    self._log = log
    self._writer = writer
    self._stop = stop
    self._periods = periods
    self._batch_size = batch_size
    self._dev = dev
    peak = find_peak_flops(trainer.mesh)
    self._throughput = Throughput(peak)
    self._flops = FlopsCounter(trainer.model) if peak else None
    self._compiled: set[Any] = set()

  def run(self, batches: Iterator[HostBatch]) -> int:
    """Takes the steps; everything is saved at the end.

    Args:
      batches: of the steps to come, this process's part of each.

    Returns:
      Steps done: fewer than `train_steps` if it was asked to stop.

    Raises:
      InputError: something is not finite any more, or the disk is full.
    """
    step, last = int(self._state.step), self._periods.train_steps
    with contextlib.closing(prefetch(self._prepare(batches))) as prepared:
      while step < last and not self._stop.reaches(step):
        step += 1
        self._writer.check()
        self._take_step(step, next(prepared))
        self._do_what_is_due(step)
    if step > self._writer.last_step:
      self._save()
    self._writer.wait()
    return step

  def _prepare(self, batches: Iterator[HostBatch]) -> Iterator[HostBatch]:
    mesh = self._trainer.mesh
    num_groups = mesh.shape[DATA] // find_batch_part(mesh)[1]
    for batch in batches:
      yield self._trainer.model.prepare_batch(batch, num_groups=num_groups)

  def _take_step(self, step: int, host_batch: HostBatch) -> None:
    part, num_parts = find_batch_part(self._trainer.mesh)
    joined = join_parts(host_batch, part=part, num_parts=num_parts)
    batch = shard_batch(self._trainer.mesh, joined)
    key = batch_key(batch)
    if is_new := key not in self._compiled:
      self._log.fetch()  # ends the time of the steps before
      self._throughput.stop()
    flops = self._flops and self._flops.count(self._state.params, batch)
    self._state, metrics = self._trainer.step(self._state, batch)
    self._log.add(step, metrics, host_batch)
    if is_new:
      self._compiled.add(key)
      self._log.fetch()
      self._throughput.start()
      return
    tokens = self._trainer.model.count_tokens(host_batch)
    self._throughput.count(
      examples=self._batch_size, tokens=tokens * num_parts, flops=flops
    )

  def _do_what_is_due(self, step: int) -> None:
    periods = self._periods
    is_dev = self._dev is not None and periods.is_due(periods.dev, step)
    if is_dev or periods.is_due(periods.log, step):
      self._write_row(step, is_dev)
    if periods.is_due(periods.checkpoint, step):
      self._save()

  def _write_row(self, step: int, is_dev: bool) -> None:
    self._log.fetch()
    values = self._throughput.take_rates()
    if is_dev and self._dev is not None:
      self._throughput.stop()
      values |= self._dev.measure(self._state.params)
      self._throughput.start()
    self._log.write_row(step, values)

  def _save(self) -> None:
    """Begins to save; what is not finite is never kept."""
    self._log.fetch()
    self._log.check_finite(self._find_finite())
    self._writer.save(self._state, metrics=self._log.pending)

  def _find_finite(self) -> dict[str, bool]:
    leaves = jax.tree.leaves_with_path(self._state.params)
    found = jax.device_get(self._are_finite(self._state.params))
    return {
      jax.tree_util.keystr(path, simple=True, separator="/"): bool(is_finite)
      for (path, _), is_finite in zip(leaves, found, strict=True)
    }

  @functools.cached_property
  def _are_finite(self) -> Any:
    return jax.jit(
      lambda tree: [jnp.isfinite(x).all() for x in jax.tree.leaves(tree)],
      out_shardings=replicated(self._trainer.mesh),
    )
