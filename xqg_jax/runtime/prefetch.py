"""Prefetching: work done one item ahead, in a thread of its own."""

from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def prefetch(items: Iterable[T]) -> Generator[T, None, None]:
  """Yields the items while the next one is already being made.

  Whatever making an item raises is raised here, in its turn.

  >>> list(prefetch(n * n for n in range(4)))
  [0, 1, 4, 9]
  """
  boxes = ((item,) for item in items)
  with ThreadPoolExecutor(1) as worker:
    following = worker.submit(next, boxes, None)
    while (box := following.result()) is not None:
      following = worker.submit(next, boxes, None)
      yield box[0]
