"""Training metrics: rows in a file, TensorBoard, a progress line."""

import collections
import json
import math
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypedDict

import jax
import numpy as np
from jaxtyping import Array, Float

from xqg_jax.errors import InputError
from xqg_jax.io.files import atomic_path, write_text
from xqg_jax.io.growing_files import GrowingFiles
from xqg_jax.io.paths import Path, to_path
from xqg_jax.io.progress import Progress
from xqg_jax.io.typed_json import Count, decode_json
from xqg_jax.runtime.processes import is_first_process
from xqg_jax.training.checkpoints import StepMetrics

_PREFIX = "events.out.tfevents."


class EventFile:
  """One event file of a run, which TensorBoard shows while it grows.

  What an interrupted run wrote up to `start_step` is taken over with its
  times, so that each step is there once.
  """

  def __init__(self, folder: str | os.PathLike, *, start_step: int = 0):
    """Opens the file of a run that goes on after `start_step`."""
    # TensorFlow is imported no earlier: training reads its data by it.
    import tensorflow as tf

    self._tf = tf
    folder = to_path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    old = sorted(folder.glob(f"{_PREFIX}*"))
    kept = {
      event.step: event
      for path in old
      for event in _read_events(tf, path)
      if event.step <= start_step
    }
    name = f"{_PREFIX}{time.time_ns():020d}.{socket.gethostname()}"
    self._writer = tf.io.TFRecordWriter(str(folder / name))
    self._write(wall_time=time.time(), file_version="brain.Event:2")
    for _, event in sorted(kept.items()):
      self._writer.write(event.SerializeToString())
    self._writer.flush()
    for path in old:
      path.unlink()

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Adds the values of a step, which TensorBoard then sees."""
    scalar = self._tf.compat.v1.Summary.Value
    summary = self._tf.compat.v1.Summary(
      value=[scalar(tag=k, simple_value=v) for k, v in values.items()]
    )
    self._write(wall_time=time.time(), step=step, summary=summary)
    self._writer.flush()

  def _write(self, **fields: Any) -> None:
    event = self._tf.compat.v1.Event(**fields)
    self._writer.write(event.SerializeToString())

  def close(self) -> None:
    """Closes the file."""
    self._writer.close()


def _read_events(tf: Any, path: Path) -> Iterator[Any]:
  """The events with values; the last one may be cut off by a kill."""
  try:
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
      event = tf.compat.v1.Event.FromString(record)
      if event.summary.value:
        yield event
  except tf.errors.DataLossError:
    return


METRICS_FILE = "metrics.jsonl"


class MetricsRow(TypedDict):
  """A row of `metrics.jsonl`; besides the step it has what was measured."""

  step: Count


EVENTS_FOLDER = "tensorboard"
# Steps that the host may be ahead of the devices: enough to keep them busy,
# few enough to stop soon and to keep the batches of all of them.
_STEPS_AHEAD = 2
_MEND = "lower LEARNING_RATE, warm up longer or set GRADIENT_CLIP"
# What the progress line shows, and how.
_SHOWN = {
  "loss": ("loss", "{:.4g}"),
  "accuracy": ("accuracy", "{:.3f}"),
  "examples_per_second": ("examples/s", "{:.4g}"),
  "tokens_per_second": ("tokens/s", "{:.4g}"),
  "mfu": ("MFU", "{:.1%}"),
  "dev_R@2kt": ("dev R@2kt", "{:.1f}"),
  "dev_MRR@10": ("dev MRR@10", "{:.1f}"),
}


class _Step(NamedTuple):
  """A step whose metrics nobody has looked at."""

  number: int
  metrics: Mapping[str, Float[Array, ""]]
  batch: Mapping[str, np.ndarray]


class MetricsLog:
  """Collects the metrics of steps and writes their means now and then.

  A row of `metrics.jsonl` has `step`, the means of the metrics since the row
  before, and whatever else it is given. Rows after `start_step`, left by an
  interrupted run, are dropped. TensorBoard shows the same rows. Of several
  processes the first one writes.

  Attributes:
    last_row: the newest row.
  """

  def __init__(
    self,
    model_dir: str | os.PathLike,
    *,
    start_step: int,
    train_steps: int,
    learning_rate: Callable[[int], Any],
    pending: StepMetrics = (),
  ):
    """Opens the files of a run that goes on after `start_step`.

    Args:
      model_dir: where they are.
      start_step: steps done.
      train_steps: steps of the whole run.
      learning_rate: of the step after so many.
      pending: the metrics of steps before `start_step` that are in no row.
    """
    self.last_row: dict[str, float] = {}
    self._folder = to_path(model_dir)
    self._learning_rate = learning_rate
    self._unseen: collections.deque[_Step] = collections.deque()
    self._last: _Step | None = None
    self._values = list(pending)
    self._writes = is_first_process()
    self._files = GrowingFiles(self._folder, (METRICS_FILE, EVENTS_FOLDER))
    self._drop_rows_after(start_step)
    self._events = None
    if self._writes:
      self._events = EventFile(
        self._files.folder / EVENTS_FOLDER, start_step=start_step
      )
    self._bar = Progress(
      total=train_steps,
      initial=start_step,
      unit="step",
      desc="train",
      disable=not self._writes,
    )

  @property
  def pending(self) -> list[Mapping[str, float]]:
    """The metrics of the steps since the last row, as far as looked at."""
    return list(self._values)

  def _drop_rows_after(self, step: int) -> None:
    path = self._files.folder / METRICS_FILE
    rows = [row for row in _read_rows(path) if row["step"] <= step]
    if self._writes:
      write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    self.last_row = rows[-1] if rows else {}

  def __enter__(self) -> "MetricsLog":
    return self

  def __exit__(self, *unused: object) -> None:
    self._bar.close()
    if self._events is not None:
      self._events.close()
    self._files.close()

  def add(
    self,
    step: int,
    metrics: Mapping[str, Float[Array, ""]],
    batch: Mapping[str, np.ndarray],
  ) -> None:
    """Takes the metrics of a step, and looks at those of steps before it.

    Args:
      step: its number.
      metrics: on the devices, perhaps still to be computed.
      batch: this process's part, as it was on the host.

    Raises:
      InputError: a metric is not finite.
    """
    self._unseen.append(_Step(step, metrics, batch))
    self._look(leave=_STEPS_AHEAD)
    self._bar.update()

  def fetch(self) -> None:
    """Waits for the steps so far and checks that their metrics are finite.

    Raises:
      InputError: one is not.
    """
    self._look(leave=0)

  def _look(self, leave: int) -> None:
    while len(self._unseen) > leave:
      self._last = self._unseen.popleft()
      values = {
        name: float(value)
        for name, value in jax.device_get(self._last.metrics).items()
      }
      for name, value in values.items():
        if not math.isfinite(value):
          raise self._refuse(name, value)
      self._values.append(values)

  def _refuse(self, name: str, value: float) -> InputError:
    """Keeps the batch of the step looked at last; says what is wrong."""
    if self._last is None:
      raise ValueError("no step has been looked at")
    step = self._last.number
    ending = f"_process_{jax.process_index()}"
    ending = ending if jax.process_count() > 1 else ""
    path = self._folder / f"failed_batch_step_{step}{ending}.npz"
    with atomic_path(path) as partial, open(partial, "wb") as file:
      np.savez(file, allow_pickle=False, **self._last.batch)
    return InputError(
      f"{name} is {value} at step {step}; training has stopped, the batch of "
      f"that step is kept in {path}",
      mend=_MEND,
    )

  def check_finite(self, are_finite: Mapping[str, bool]) -> None:
    """Refuses parameters that the newest step has made infinite or NaN.

    Args:
      are_finite: by name of the parameter; all metrics have been fetched.

    Raises:
      InputError: one is not finite.
    """
    for name, is_finite in are_finite.items():
      if not is_finite:
        raise self._refuse(f"the parameter {name}", math.nan)

  def write_row(self, step: int, more: Mapping[str, float]) -> None:
    """Writes the row of `step` and shows it in the progress line.

    Args:
      step: its number; all its metrics have been fetched.
      more: what the row has besides means and learning rate.
    """
    row = {"step": step, **self._take_means()}
    rate = np.float32(self._learning_rate(step - 1))
    row["learning_rate"] = float(str(rate))  # 0.01, not 0.00999999977
    row.update(more)
    self.last_row = row
    if self._events is not None:
      with open(
        self._files.folder / METRICS_FILE, "a", encoding="utf-8"
      ) as file:
        file.write(json.dumps(row) + "\n")
      self._events.write(step, {k: row[k] for k in row if k != "step"})
      self._files.publish()
    self._bar.set_postfix(
      {
        label: style.format(row[name])
        for name, (label, style) in _SHOWN.items()
        if name in row
      }
    )

  def _take_means(self) -> dict[str, float]:
    taken, self._values = self._values, []
    return {
      name: sum(values[name] for values in taken) / len(taken)
      for name in taken[0]
    }


def _read_rows(path: Path) -> list[dict[str, float]]:
  """The rows of a file, of which the last may be cut off by a full disk."""
  if not path.is_file():
    return []
  content = path.read_bytes()
  whole = content[: content.rfind(b"\n") + 1]
  return [
    decode_json(line, MetricsRow, where=f"{path}:{number}")
    for number, line in enumerate(whole.splitlines(), start=1)
  ]
