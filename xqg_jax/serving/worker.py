"""Worker thread that answers questions in small batches, in order.

Requests that come while it works wait in a bounded queue and are then taken
together; more than the queue holds are turned away at once.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

AnswerBatch = Callable[[Sequence[Any]], Sequence[Any]]


class Busy(Exception):
  """So many requests wait that another would wait too long."""


class QuestionWorker:
  """Answers requests in a thread of its own; a context manager."""

  def __init__(
    self, answer_batch: AnswerBatch, *, max_batch: int, max_waiting: int
  ):
    """Starts the thread.

    Args:
      answer_batch: answers for requests, in their order.
      max_batch: the most requests given to it at a time.
      max_waiting: the most requests that wait.
    """
    self._answer_batch = answer_batch
    self._max_batch = max_batch
    self._waiting: queue.Queue = queue.Queue(max_waiting)
    self._thread = threading.Thread(target=self._work, daemon=True)
    self._thread.start()

  def submit(self, request: Any) -> Future:
    """Hands a request in; the future holds its answer or what went wrong.

    Raises:
      Busy: too many wait already.
    """
    future: Future = Future()
    try:
      self._waiting.put_nowait((request, future))
    except queue.Full:
      raise Busy from None
    return future

  def _work(self) -> None:
    while (first := self._waiting.get()) is not None:
      taken, is_last = self._take_more([first])
      # Nobody waits any more for what was cancelled.
      taken = [t for t in taken if t[1].set_running_or_notify_cancel()]
      if taken:
        self._answer(taken)
      if is_last:
        return

  def _take_more(self, taken: list) -> tuple[list, bool]:
    while len(taken) < self._max_batch:
      try:
        item = self._waiting.get_nowait()
      except queue.Empty:
        break
      if item is None:
        return taken, True
      taken.append(item)
    return taken, False

  def _answer(self, taken: Sequence[tuple[Any, Future]]) -> None:
    try:
      answers = self._answer_batch([request for request, _ in taken])
    except Exception as error:
      if len(taken) == 1:
        taken[0][1].set_exception(error)
        return
      # One bad request must not take the others with it.
      for item in taken:
        self._answer([item])
      return
    for (_, future), answer in zip(taken, answers, strict=True):
      future.set_result(answer)

  def close(self) -> None:
    """Answers what waits, then ends the thread."""
    self._waiting.put(None)
    self._thread.join()

  def __enter__(self) -> "QuestionWorker":
    return self

  def __exit__(self, *exception: object) -> None:
    self.close()
