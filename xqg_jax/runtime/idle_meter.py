"""Idle share of the devices."""

import time
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

import jax
import numpy as np
from jaxtyping import Int


class IdleMeter:
  """Measures the gaps between batches on the devices.

  A thread waits for each batch in turn. If the host begins a batch when the
  one before is finished already, the devices stood idle in between. What
  compilation takes counts as work.
  """

  def __init__(self):
    """Starts with nothing measured."""
    self._watcher = ThreadPoolExecutor(1)
    self._started: float | None = None
    self._finished = 0.0
    self._idle = 0.0
    self._tokens = 0

  def __enter__(self) -> "IdleMeter":
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    """Waits for the last batch."""
    self._watcher.shutdown()

  def watch(
    self, begun: float, done: Any, segment_ids: Int[np.ndarray, "..."]
  ) -> None:
    """Notes a batch.

    Args:
      begun: when the host began to hand it to the devices
        (`time.perf_counter`).
      done: a result of it.
      segment_ids: of its tokens; 0 is padding.
    """
    num_tokens = int(np.count_nonzero(segment_ids))
    self._watcher.submit(self._wait, begun, done, num_tokens)

  def _wait(self, begun: float, done: Any, num_tokens: int) -> None:
    if self._started is None:
      self._started = begun
    else:
      self._idle += max(0.0, begun - self._finished)
    jax.block_until_ready(done)
    self._finished = time.perf_counter()
    self._tokens += num_tokens

  @property
  def seconds(self) -> float:
    """From the first batch to the end of the last that is finished."""
    return 0.0 if self._started is None else self._finished - self._started

  @property
  def share(self) -> float:
    """The share of that time in which the devices had no work."""
    return self._idle / self.seconds if self.seconds > 0 else 0.0

  def describe(self) -> str:
    """One line: tokens, time, rate, and the idle share."""
    seconds = max(self.seconds, 1e-9)
    return (
      f"{self._tokens:,} tokens in {seconds:,.1f} s, "
      f"{self._tokens / seconds:,.0f} a second; devices idle {self.share:.1%}"
    )
