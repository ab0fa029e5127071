"""Scalars over steps for TensorBoard, without those of an interrupted run."""

import os
import pathlib
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

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
    folder = pathlib.Path(folder)
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


def _read_events(tf: Any, path: pathlib.Path) -> Iterator[Any]:
  """The events with values; the last one may be cut off by a kill."""
  try:
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
      event = tf.compat.v1.Event.FromString(record)
      if event.summary.value:
        yield event
  except tf.errors.DataLossError:
    return
