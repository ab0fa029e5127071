"""Random samples of streams."""

import random
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def draw_sample(
  items: Iterable[T], size: int, *, seed: int
) -> tuple[list[T], int]:
  """Draws some items of a stream, each as likely as any other.

  Args:
    items: are read to the end, and not kept.
    size: how many to draw; all of them where there are fewer.
    seed: of the draws.

  Returns:
    (the items drawn, in their order; the number of all items).

  >>> draw_sample(range(100), 3, seed=0)
  ([1, 28, 53], 100)
  """
  draw, count = random.Random(seed), 0
  drawn: dict[int, tuple[int, T]] = {}
  for item in items:
    # Algorithm R: each of the items so far is as likely in the sample.
    place = count if count < size else draw.randrange(count + 1)
    if place < size:
      drawn[place] = (count, item)
    count += 1
  return [item for _, item in sorted(drawn.values(), key=_first)], count


def _first(pair: tuple[int, T]) -> int:
  return pair[0]
