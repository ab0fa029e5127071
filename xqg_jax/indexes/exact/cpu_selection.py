"""Top-k on CPUs: the best of a stream of scores, chosen in numpy.

XLA's top-k on CPU takes longer than the product it follows. After the first
tile few scores can still be among the best: a group of columns whose maximum
does not beat the query's k-th best score so far is never looked into. Scores
that are not exact, but within a known error, are kept as the least that they
may be; when a block of rows has been seen, what may win is scored exactly.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from xqg_jax.indexes.neighbors import refuse_score

# Columns of which a product returns the maximum beside the scores.
GROUP = 16


@dataclasses.dataclass(frozen=True)
class Block:
  """Rows whose scores are not exact, until all of them have been seen.

  Attributes:
    start: the first row.
    score_exactly: of queries and rows of the block, the exact scores.
  """

  start: int
  score_exactly: Callable[[np.ndarray, np.ndarray], np.ndarray]


class HostSelection:
  """The best rows of one batch of queries; rows arrive in their order."""

  def __init__(self, num_queries: int, k: int, *, first_query: int = 0):
    """Starts without any row.

    Args:
      num_queries: queries in the batch.
      k: how many rows to find for each.
      first_query: number of the first query, for messages.
    """
    self._k = k
    self._first_query = first_query
    self._num_rows = 0
    self._block: Block | None = None
    # Twice the errors of the block's scores: from their least to their most.
    self._slack = np.zeros((num_queries, 1), np.float32)
    # A row needs a score above this; whatever ties with it came earlier.
    self._threshold = np.full((num_queries, 1), -np.inf, np.float32)
    # Exact, or the least that a score of the block may be.
    self._scores = np.empty((num_queries, 0), np.float32)
    self._rows = np.empty((num_queries, 0), np.int32)

  def add(
    self,
    scores: Float[np.ndarray, "queries columns"],
    maxima: Float[np.ndarray, "queries groups"],
    *,
    start: int,
    num_rows: int,
    block: Block | None = None,
    errors: Float[np.ndarray, "queries 1"] | None = None,
  ) -> None:
    """Takes the scores of further rows.

    Args:
      scores: of `num_rows` rows and then of padding, in whole groups.
      maxima: of each group of `GROUP` columns.
      start: the first row.
      num_rows: how many of the columns are rows.
      block: what the rows belong to, if the scores are not exact.
      errors: how far a query's scores are from the exact ones at most, then.

    Raises:
      InputError: a score is not finite.
    """
    self._num_rows += num_rows
    if block is not self._block:
      self._settle()
      self._block = block
    if errors is None:
      errors = np.zeros_like(self._slack)
    self._slack = np.maximum(self._slack, 2 * errors)
    lower = self._threshold
    if not self._scores.shape[1] and maxima.shape[1] > self._k:
      # k groups hold a score at least as large as the k-th largest maximum.
      lower = np.partition(maxima, -self._k, axis=1)[:, -self._k, None]
      lower = np.nextafter(lower - errors, np.float32(-np.inf))
    found, columns, values = _find_above(scores, maxima, lower - errors)
    is_row = columns < num_rows
    if not is_row.any():
      return
    found, columns, values = (part[is_row] for part in (found, columns, values))
    self._check(found, values)
    values = values - errors[found, 0]
    self._append(*_pad(found, values, columns + start, len(scores)))

  def _check(
    self,
    queries: Int[np.ndarray, " found"],
    scores: Float[np.ndarray, " found"],
  ) -> None:
    is_finite = np.isfinite(scores)
    if not is_finite.all():
      query = queries[np.argmin(is_finite)]
      raise refuse_score(self._first_query + int(query))

  def _settle(self) -> None:
    """Scores exactly what is left of the block."""
    if self._block is None:
      return
    first = self._block.start
    may_win = self._scores + self._slack >= self._threshold
    queries, columns = np.nonzero((self._rows >= first) & may_win)
    rows = self._rows[queries, columns]
    values = self._block.score_exactly(queries, rows - first)
    self._check(queries, values)
    self._scores[self._rows >= first] = -np.inf
    self._scores[queries, columns] = values
    self._slack = np.zeros_like(self._slack)
    self._block = None
    self._set_threshold()

  def _append(
    self,
    scores: Float[np.ndarray, "queries new"],
    rows: Int[np.ndarray, "queries new"],
  ) -> None:
    self._scores = np.concatenate([self._scores, scores], axis=1)
    self._rows = np.concatenate([self._rows, rows], axis=1)
    self._set_threshold()
    if self._scores.shape[1] > 6 * self._k:
      may_win = self._scores + self._slack >= self._threshold
      found, columns = np.nonzero(may_win)
      values, kept = self._scores[found, columns], self._rows[found, columns]
      self._scores, self._rows = _pad(found, values, kept, len(scores))

  def _set_threshold(self) -> None:
    if self._scores.shape[1] >= self._k:
      at = self._scores.shape[1] - self._k
      self._threshold = np.partition(self._scores, at, axis=1)[:, at, None]

  def finish(
    self,
  ) -> tuple[Float[np.ndarray, "queries k"], Int[np.ndarray, "queries k"]]:
    """Scores and rows, best first, the lower row first among equals.

    As many as there were rows, at most k; -inf and -1 for scores of -inf.
    """
    self._settle()
    missing = min(self._k, self._num_rows) - self._scores.shape[1]
    if missing > 0:
      nothing = np.full((len(self._scores), missing), -1, np.int32)
      self._append(np.full(nothing.shape, -np.inf, np.float32), nothing)
    order = np.argsort(-self._scores, axis=1, kind="stable")[:, : self._k]
    return (
      np.take_along_axis(self._scores, order, axis=1),
      np.take_along_axis(self._rows, order, axis=1),
    )


def _find_above(
  scores: Float[np.ndarray, "queries columns"],
  maxima: Float[np.ndarray, "queries groups"],
  lower: Float[np.ndarray, "queries 1"],
) -> Sequence[np.ndarray]:
  """Query, column and value of each score above its query's, and of NaNs."""
  groups = np.flatnonzero(~(maxima <= lower))
  # [queries, columns] -> [groups found, GROUP]
  inside = scores.reshape(-1, GROUP)[groups]
  queries, groups = np.divmod(groups, maxima.shape[1])
  at, offsets = np.nonzero(~(inside <= lower[queries]))
  return queries[at], groups[at] * GROUP + offsets, inside[at, offsets]


def _pad(
  queries: Int[np.ndarray, " found"],
  scores: Float[np.ndarray, " found"],
  rows: Int[np.ndarray, " found"],
  num_queries: int,
) -> tuple[Float[np.ndarray, "queries new"], Int[np.ndarray, "queries new"]]:
  """Lays out what was found for each query in a row of its own.

  >>> _pad(np.array([0, 2, 2]), np.array([5.0, 7, 6]), np.array([9, 3, 4]), 3)[
  ...   1
  ... ]
  array([[ 9, -1],
         [-1, -1],
         [ 3,  4]], dtype=int32)
  """
  counts = np.bincount(queries, minlength=num_queries)
  places = np.arange(len(queries)) - (np.cumsum(counts) - counts)[queries]
  shape = (num_queries, counts.max())
  padded_scores = np.full(shape, -np.inf, np.float32)
  padded_rows = np.full(shape, -1, np.int32)
  padded_scores[queries, places] = scores
  padded_rows[queries, places] = rows
  return padded_scores, padded_rows
