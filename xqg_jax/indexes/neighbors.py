"""Neighbors of queries, merged from devices, shards and processes."""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from xqg_jax.errors import InputError
from xqg_jax.runtime.processes import gather_arrays

# Scores and rows, best first.
Neighbors = tuple[Float[np.ndarray, "queries k"], Int[np.ndarray, "queries k"]]


def refuse_score(query: int) -> InputError:
  """The error for a score that is NaN or infinite."""
  return InputError(
    f"a score of query {query} is not finite",
    mend="the vectors are too long for float32; normalise them",
  )


def join_batches(
  parts: Sequence[tuple[Array | np.ndarray, Array | np.ndarray]],
) -> Neighbors:
  """Scores and rows of all batches of queries, one below the other."""
  scores, rows = zip(*parts, strict=True)
  return np.concatenate(scores), np.concatenate(rows)


def cut_padding(
  found: tuple[np.ndarray, np.ndarray], *, num_queries: int, num_rows: int
) -> Neighbors:
  """Leaves off queries and places that were padding.

  Raises:
    InputError: a score of what is left is not finite.
  """
  scores, rows = (part[:num_queries, :num_rows] for part in found)
  if not np.isfinite(scores).all():
    raise refuse_score(int(np.argwhere(~np.isfinite(scores))[0][0]))
  return scores, rows


def merge_neighbors(
  found: Sequence[tuple[np.ndarray, np.ndarray]], k: int
) -> tuple[np.ndarray, np.ndarray]:
  """The k best of several searches of different rows of one corpus.

  >>> left = np.array([[3.0, 1.0]]), np.array([[0, 4]])
  >>> right = np.array([[3.0, 2.0]]), np.array([[7, 5]])
  >>> merge_neighbors([right, left], 3)[1].tolist()
  [[0, 7, 5]]
  """
  scores = np.concatenate([part[0] for part in found], axis=1)
  rows = np.concatenate([part[1] for part in found], axis=1)
  order = np.lexsort((rows, -scores))[:, :k]
  return (
    np.take_along_axis(scores, order, axis=1),
    np.take_along_axis(rows, order, axis=1),
  )


def shift_rows(
  found: tuple[np.ndarray, np.ndarray], start: int
) -> tuple[np.ndarray, np.ndarray]:
  """A shard's rows as rows of the whole; places without a row stay so.

  >>> shift_rows((np.array([[0.5, -np.inf]]), np.array([[3, -1]])), 10)[1]
  array([[13, -1]])
  """
  scores, rows = found
  return scores, np.where(rows < 0, -1, rows + start).astype(rows.dtype)


def take_turn(across_processes: bool) -> tuple[int, int]:
  """Which of several processes this is, and how many share the work."""
  if not across_processes or not jax.distributed.is_initialized():
    return 0, 1
  return jax.process_index(), jax.process_count()


def merge_processes(
  found: tuple[np.ndarray, np.ndarray], k: int
) -> tuple[np.ndarray, np.ndarray]:
  """The k best of what all processes found, in each of them."""
  missing = ((0, 0), (0, max(0, k - found[0].shape[1])))
  scores = np.pad(found[0][:, :k], missing, constant_values=-np.inf)
  rows = np.pad(found[1][:, :k], missing, constant_values=-1)
  return merge_neighbors([(s, r) for s, r in gather_arrays([scores, rows])], k)
