"""Metrics of a training run: a file, a progress line, a check."""

import json
import math
import os
import pathlib
import time
from collections.abc import Mapping

import jax
import tqdm
from jaxtyping import Array, Float

from xqg_jax.errors import InputError
from xqg_jax.files import read_lines, write_text

METRICS_FILE = "metrics.jsonl"


class MetricsLog:
  """Collects metrics on the device and writes their means now and then.

  Steps run ahead of the host, which waits for them only to write a row of
  `metrics.jsonl`: `step`, the means of the metrics since the row before, and
  `examples_per_second`, in which compilation does not count. Rows after
  `start_step`, left by an interrupted run, are dropped.

  Attributes:
    last_row: the newest row.
  """

  def __init__(
    self,
    model_dir: str | os.PathLike,
    *,
    start_step: int,
    train_steps: int,
    batch_size: int,
  ):
    """Opens the file of a run that goes on after `start_step`."""
    self.last_row: dict[str, float] = {}
    self._path = pathlib.Path(model_dir) / METRICS_FILE
    self._batch_size = batch_size
    self._pending: list[Mapping[str, Float[Array, ""]]] = []
    self._values: list[Mapping[str, float]] = []
    self._step = start_step  # the last one whose metrics were looked at
    self._clock: tuple[float, int] | None = None  # when, after which step
    self._drop_rows_after(start_step)
    self._bar = tqdm.tqdm(
      total=train_steps, initial=start_step, unit="step", desc="train"
    )

  def _drop_rows_after(self, step: int) -> None:
    lines = read_lines(self._path) if self._path.exists() else ()
    rows = [json.loads(line) for _, line in lines]
    rows = [row for row in rows if row["step"] <= step]
    write_text(self._path, "".join(json.dumps(row) + "\n" for row in rows))
    self.last_row = rows[-1] if rows else {}

  def __enter__(self) -> "MetricsLog":
    return self

  def __exit__(self, *unused: object) -> None:
    self._bar.close()

  def add(self, metrics: Mapping[str, Float[Array, ""]]) -> None:
    """Takes the metrics of one step, without waiting for them."""
    self._pending.append(metrics)
    if self._clock is None:
      jax.block_until_ready(metrics)
      self._clock = time.perf_counter(), self._step + 1
    self._bar.update()

  def fetch(self) -> None:
    """Waits for the steps so far and checks that their metrics are finite.

    Raises:
      InputError: one is not.
    """
    for values in jax.device_get(self._pending):
      self._step += 1
      for name, value in values.items():
        if not math.isfinite(value):
          raise InputError(
            f"{name} is {value} at step {self._step}; training has stopped",
            where=self._path.parent,
            mend="lower LEARNING_RATE, warm up longer or set gradient_clip",
          )
      self._values.append(values)
    self._pending = []

  def write_row(self, step: int) -> None:
    """Writes the row of `step` and shows it in the progress line.

    Raises:
      InputError: a metric is not finite.
    """
    self.fetch()
    row = {"step": step}
    for name in self._values[0]:
      values = [float(metrics[name]) for metrics in self._values]
      row[name] = sum(values) / len(values)
    started, since = self._clock
    elapsed = time.perf_counter() - started
    if step > since:
      row["examples_per_second"] = (step - since) * self._batch_size / elapsed
    self._values, self._clock = [], (time.perf_counter(), step)
    with open(self._path, "a", encoding="utf-8") as file:
      file.write(json.dumps(row) + "\n")
    self._bar.set_postfix(
      {key: f"{value:.4g}" for key, value in row.items() if key != "step"}
    )
    self.last_row = row
