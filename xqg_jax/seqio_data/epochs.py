"""Order of examples over epochs, random and reproducible from any step."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int


@dataclasses.dataclass(frozen=True)
class EpochSampler:
  """Says which examples make up each epoch of a mixture.

  Task t has `sizes[t]` examples, of which `num_draws` versions lie one after
  another. An epoch has as many examples as all tasks together, divided among
  the tasks by `rates`. Each task is read again and again, each time in a new
  order: with rates in proportion to the sizes an epoch has every example once.
  """

  sizes: Sequence[int]
  rates: Sequence[float]
  seed: int
  num_draws: int = 1

  @functools.cached_property
  def length(self) -> int:
    """Examples in an epoch."""
    return sum(self.sizes)

  @functools.cached_property
  def shares(self) -> list[int]:
    """Examples of each task in an epoch, by largest remainders."""
    exact = self.length * np.array(self.rates) / np.sum(self.rates)
    shares = np.floor(exact).astype(int)
    order = np.argsort(shares - exact, kind="stable")
    shares[order[: self.length - shares.sum()]] += 1
    return shares.tolist()

  def epoch(self, number: int) -> Int[np.ndarray, " rows"]:
    """Rows of an epoch in order; the tasks' rows lie one after another."""
    starts = np.cumsum([0, *self.sizes[:-1]]) * self.num_draws
    rows = np.concatenate(
      [
        starts[task] + self._task_rows(task, number * share, share)
        for task, share in enumerate(self.shares)
      ]
    )
    return np.random.default_rng([self.seed, number]).permutation(rows)

  def _task_rows(
    self, task: int, start: int, count: int
  ) -> Int[np.ndarray, " rows"]:
    """A task's rows number `start`, `start + 1`, ... over all its passes."""
    size = self.sizes[task]
    passes = range(start // size, -(-(start + count) // size))
    rows = [
      np.random.default_rng([self.seed, i, task]).permutation(size)
      + i % self.num_draws * size
      for i in passes
    ]
    offset = start % size
    return np.concatenate([np.zeros(0, int), *rows])[offset : offset + count]

  def rows(self, start: int, count: int) -> Int[np.ndarray, " count"]:
    """Rows number `start`, `start + 1`, ... of the endless stream."""
    first, last = start // self.length, (start + count - 1) // self.length
    epochs = [self._cached_epoch(number) for number in range(first, last + 1)]
    offset = start - first * self.length
    return np.concatenate(epochs)[offset : offset + count]

  @functools.cached_property
  def _cached_epoch(self) -> Any:
    return functools.lru_cache(maxsize=2)(self.epoch)
