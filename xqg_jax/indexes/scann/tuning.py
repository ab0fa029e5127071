"""Tuning of a ScaNN index to a wanted index recall."""

import dataclasses
import math
import os
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from xqg_jax.augmentation.views import AugmentedView
from xqg_jax.errors import InputError
from xqg_jax.indexes.exact.search import BLOCK_SIZE
from xqg_jax.indexes.neighbors import Neighbors
from xqg_jax.indexes.scann.index import ScannIndex, ScannParameters
from xqg_jax.io.local_copies import copy_here
from xqg_jax.store.vector_checks import check_queries


def measure_index_recall(found: Neighbors, exact: Neighbors) -> float:
  """Share of the exact neighbors that were found, averaged over queries.

  A passage that ties with the last exact neighbor counts as one of them.

  >>> exact = np.array([[3.0, 2.0]]), np.array([[7, 5]])
  >>> measure_index_recall((np.array([[3.0, 1.0]]), np.array([[7, 6]])), exact)
  0.5
  """
  is_exact = (found[1][:, :, None] == exact[1][:, None, :]).any(axis=-1)
  is_tie = found[0] >= exact[0][:, -1:]
  return float((is_exact | is_tie).sum(axis=1).mean() / exact[1].shape[1])


def make_tuning_queries(
  view: AugmentedView, *, num_queries: int, seed: int
) -> Float[np.ndarray, "queries dim"]:
  """Draws passages and moves each by the corpus's own spread.

  Gaussian noise with each dimension's standard deviation among the passages
  drawn puts a query about as far from its passage as questions usually are.

  Returns:
    At most `num_queries` vectors, each of its passage's length.
  """
  rng = np.random.default_rng(seed)
  count = min(num_queries, view.num_passages)
  rows = np.sort(rng.choice(view.num_passages, count, replace=False))
  drawn = np.concatenate(
    [
      vectors[rows[(rows >= start) & (rows < start + len(vectors))] - start]
      for start, vectors in view.blocks(BLOCK_SIZE)
    ]
  )
  noise = rng.standard_normal(drawn.shape) * drawn.std(axis=0)
  moved = drawn + noise
  lengths = np.linalg.norm(moved, axis=1, keepdims=True)
  scale = np.linalg.norm(drawn, axis=1, keepdims=True) / np.maximum(
    lengths, np.finfo(np.float32).tiny
  )
  return rng.permutation((moved * scale).astype(np.float32))


def read_tuning_queries(
  path: str | os.PathLike, *, dim: int, num_queries: int, seed: int
) -> Float[np.ndarray, "queries dim"]:
  """Reads question vectors of a .npy file and draws some of them.

  Raises:
    InputError: no array of finite vectors of the right dimension there.
  """
  try:
    vectors = np.load(copy_here(path), allow_pickle=False)
  except (OSError, ValueError, EOFError) as error:
    raise InputError(
      f"not a .npy file of vectors ({error})",
      where=path,
      mend="give what `search` writes as question_embeddings.npy",
    ) from None
  if vectors.ndim != 2 or not np.issubdtype(vectors.dtype, np.floating):
    raise InputError(
      f"found {vectors.dtype} of shape {vectors.shape}, expected vectors",
      where=path,
      mend="give what `search` writes as question_embeddings.npy",
    )
  return draw_tuning_queries(
    vectors, dim=dim, num_queries=num_queries, seed=seed
  )


def draw_tuning_queries(
  vectors: Float[np.ndarray, "questions query_dim"],
  *,
  dim: int,
  num_queries: int,
  seed: int,
) -> Float[np.ndarray, "queries dim"]:
  """Draws some question vectors.

  Raises:
    InputError: vectors of another dimension, or not finite.
  """
  check_queries(vectors, dim=dim, k=1)
  order = np.random.default_rng(seed).permutation(len(vectors))
  return vectors[order[:num_queries]].astype(np.float32)


def _first_reaching(
  measure: Callable[[int], float], start: int, limit: int, target: float
) -> int:
  """The least value, to 3 %, that reaches the target.

  By doubling from `start` to at most `limit`, and then by bisection.

  >>> _first_reaching(lambda value: value / 100, 3, 1000, 0.5)
  50
  >>> _first_reaching(lambda value: 0.0, 3, 1000, 0.5)
  1000
  """
  low, high = 0, min(start, limit)
  while high < limit and measure(high) < target:
    low, high = high, min(2 * high, limit)
  while high - low > max(1, high // 32):
    middle = (low + high) // 2
    low, high = (low, middle) if measure(middle) >= target else (middle, high)
  return high


def tune_parameters(
  index: ScannIndex,
  queries: Float[np.ndarray, "queries dim"],
  exact: Neighbors,
  *,
  target_index_recall: float,
  num_leaves_to_search: int | None = None,
  num_reordered: int | None = None,
) -> ScannParameters:
  """Looks for the least work that reaches the wanted index recall.

  For k, 2k, 4k, ... candidates the least number of leaves is found; of these
  pairs the cheapest is taken. The cost is counted, not timed, so that the
  choice is the same on every machine.

  Args:
    index: the index, searched with other numbers but not built again.
    queries: queries to measure with.
    exact: what exact search finds for them.
    target_index_recall: the wanted recall, 0 to 1.
    num_leaves_to_search: leaves, if not to be tuned.
    num_reordered: candidates, if not to be tuned.

  Returns:
    The index's parameters with new numbers. If nothing reaches the target,
    all leaves are searched and every vector is reordered.
  """
  old = index.parameters

  def measure(leaves: int, candidates: int) -> float:
    found = index.search(
      queries,
      exact[1].shape[1],
      num_leaves_to_search=leaves,
      num_reordered=candidates,
    )
    return measure_index_recall(found, exact)

  limit = num_leaves_to_search or old.num_leaves

  def find_leaves(candidates: int) -> int | None:
    if measure(limit, candidates) < target_index_recall:
      return None
    if num_leaves_to_search:
      return num_leaves_to_search
    return _first_reaching(
      lambda leaves: measure(leaves, candidates),
      old.num_leaves_to_search,
      limit,
      target_index_recall,
    )

  best = (math.inf, limit, num_reordered or index.num_vectors)
  for candidates in _list_candidates(index, exact[1].shape[1], num_reordered):
    leaves = find_leaves(candidates)
    if leaves is None:
      continue
    cost = _count_work(index, leaves, candidates)
    if cost >= best[0]:
      break
    best = (cost, leaves, candidates)
  return dataclasses.replace(
    old, num_leaves_to_search=best[1], num_reordered=best[2]
  )


def _list_candidates(
  index: ScannIndex, k: int, num_reordered: int | None
) -> list[int]:
  """k, 2k, 4k, ... up to the number of vectors, or just the number given."""
  if num_reordered:
    return [num_reordered]
  everything = index.num_vectors
  doublings = range((everything // k).bit_length())
  return [*(k << n for n in doublings if k << n < everything), everything]


def _count_work(index: ScannIndex, leaves: int, candidates: int) -> float:
  """Cost of a query: vectors hashed, and exact products, worth 16 of them.

  A hash code is scored from registers, 16 codes an instruction; an exact
  product fetches a whole vector from anywhere in memory.
  """
  hashed = index.num_vectors * leaves / index.parameters.num_leaves
  return hashed + 16 * candidates
