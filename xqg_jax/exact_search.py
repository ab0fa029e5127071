"""Exact inner-product search, streamed over the corpus in blocks.

The whole corpus is never in memory: each block goes to the device once, is
multiplied with all queries, and its best rows are merged with the best so
far. Among equal scores the lower row wins, whatever the block size.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from xqg_jax.errors import InputError
from xqg_jax.fusion import (
  Augmentation,
  Means,
  get_weights,
  group_weights,
  measure_means,
  sum_groups,
)
from xqg_jax.store import EmbeddingStore, StoreBlock

BLOCK_SIZE = 65_536
QUERY_BATCH = 512
# Columns are first compared by the maximum of groups of this many.
_GROUP = 32

Neighbors = tuple[Float[np.ndarray, "queries k"], Int[np.ndarray, "queries k"]]


class _Best(NamedTuple):
  """The best rows so far, best first; -1 where there is none yet."""

  scores: Float[Array, "variants queries k"]
  rows: Int[Array, "variants queries k"]


class _Mixture(NamedTuple):
  """How much of a passage and of its query sum goes into each variant."""

  passage: Float[np.ndarray, "variants rows"]
  query_sum: Float[np.ndarray, "variants rows"]


class _Choice(NamedTuple):
  """Which query sums a variant takes, and what it subtracts from passages."""

  selection: Int[np.ndarray, " variants"]
  mean_passage: Float[np.ndarray, "variants dim"]


# --------------------------------------------------------------------- checks


def check_vectors(
  vectors: Float[np.ndarray, "rows dim"], what: str, *, first_row: int = 0
) -> None:
  """Refuses vectors that could not be ranked.

  Args:
    vectors: the vectors.
    what: what one of them is called in the message.
    first_row: number of the first of them.

  Raises:
    InputError: a value that is NaN or infinite; the message names the row.

  >>> check_vectors(np.zeros((1, 2), np.float32), "query")
  >>> check_vectors(np.array([[0.0], [np.nan]]), "query", first_row=7)
  Traceback (most recent call last):
    ...
  xqg_jax.errors.InputError: query 8 holds NaN or infinity; encode it again
  """
  is_good = np.isfinite(vectors).all(axis=1)
  if not is_good.all():
    row = first_row + int(np.argmin(is_good))
    raise InputError(
      f"{what} {row} holds NaN or infinity", mend="encode it again"
    )


def check_queries(
  queries: Float[np.ndarray, "queries query_dim"], *, dim: int, k: int
) -> None:
  """Refuses queries that cannot be searched with.

  Raises:
    InputError: no query, another dimension than the corpus, a value that is
      not finite, or a `k` below 1.
  """
  if k < 1:
    raise InputError(f"k is {k}", mend="ask for at least one neighbor")
  if not len(queries):
    raise InputError("no queries", mend="give at least one")
  if queries.shape[1] != dim:
    raise InputError(
      f"queries have {queries.shape[1]} dimensions, the corpus has {dim}",
      mend="encode both with the same dual encoder",
    )
  check_vectors(queries, "query")


def _check_order(start: int, expected: int, rows: int, capacity: int) -> None:
  if start != expected:
    raise ValueError(f"a block starts at row {start}, expected {expected}")
  if rows > capacity:
    raise ValueError(f"a block of {rows} rows follows one of {capacity}")


def _finish(
  parts: Sequence[_Best], num_queries: int, num_rows: int
) -> list[Neighbors]:
  """Joins the query batches and cuts what is padding; one item a variant."""
  scores = np.concatenate([np.asarray(p.scores) for p in parts], axis=1)
  rows = np.concatenate([np.asarray(p.rows) for p in parts], axis=1)
  scores = scores[:, :num_queries, :num_rows]
  rows = rows[:, :num_queries, :num_rows]
  if not np.isfinite(scores).all():
    _, query, _ = np.argwhere(~np.isfinite(scores))[0]
    raise InputError(
      f"a score of query {query} is not finite",
      mend="the vectors are too long for float32; normalise them",
    )
  return list(zip(scores, rows, strict=True))


# -------------------------------------------------------------- on the device


def _top_columns(
  scores: Float[Array, "queries columns"], k: int
) -> tuple[Float[Array, "queries best"], Int[Array, "queries best"]]:
  """`lax.top_k`, through the maxima of groups where that is less work.

  The k best columns lie in the k groups with the largest maxima; groups and
  columns are kept in order, so equal scores still favour the lower column.
  """
  queries, columns = scores.shape
  if columns % _GROUP or columns // _GROUP < 4 * k:
    return tuple(jax.lax.top_k(scores, min(k, columns)))
  # [queries, columns] -> [queries, groups] -> [queries, k]
  maxima = scores.reshape(queries, -1, _GROUP).max(axis=-1)
  groups = jnp.sort(jax.lax.top_k(maxima, k)[1], axis=-1)
  # [queries, k] -> [queries, k * group]
  inside = groups[:, :, None] * _GROUP + jnp.arange(_GROUP)
  inside = inside.reshape(queries, -1)
  best, at = jax.lax.top_k(jnp.take_along_axis(scores, inside, axis=1), k)
  return best, jnp.take_along_axis(inside, at, axis=1)


def _merge(
  best: _Best,
  similarity: Float[Array, "queries columns"],
  start: Int[Array, ""],
  num_valid: Int[Array, ""],
  k: int,
) -> _Best:
  """Merges one block's similarities into the best rows of one variant."""
  is_valid = jnp.arange(similarity.shape[1]) < num_valid
  scores, columns = _top_columns(jnp.where(is_valid, similarity, -jnp.inf), k)
  # The rows found earlier come first: they are lower, and win ties.
  scores = jnp.concatenate([best.scores, scores], axis=1)
  rows = jnp.concatenate([best.rows, columns + start], axis=1)
  scores, at = jax.lax.top_k(scores, min(k, scores.shape[1]))
  return _Best(scores, jnp.take_along_axis(rows, at, axis=1))


def _dot(
  queries: Float[Array, "queries dim"], vectors: Float[Array, "rows dim"]
) -> Float[Array, "queries rows"]:
  # Accelerators would otherwise round float32 factors to bfloat16 or TF32.
  return jnp.matmul(queries, vectors.T, precision=jax.lax.Precision.HIGHEST)


@functools.partial(jax.jit, static_argnames="k")
def _update(
  best: _Best,
  queries: Float[Array, "queries dim"],
  passages: Float[Array, "rows dim"],
  start: Int[Array, ""],
  num_valid: Int[Array, ""],
  *,
  k: int,
) -> _Best:
  one = jax.tree.map(lambda x: x[0], best)
  merged = _merge(one, _dot(queries, passages), start, num_valid, k)
  return jax.tree.map(lambda x: x[None], merged)


@functools.partial(jax.jit, static_argnames="k")
def _update_variants(
  best: _Best,
  queries: Float[Array, "queries dim"],
  passages: Float[Array, "rows dim"],
  query_sums: Float[Array, "selections rows dim"],
  mixture: _Mixture,
  choice: _Choice,
  start: Int[Array, ""],
  num_valid: Int[Array, ""],
  *,
  k: int,
) -> _Best:
  """Two products, then each variant's similarities are a mixture of them."""
  to_passages = _dot(queries, passages)
  to_sums = jax.vmap(_dot, in_axes=(None, 0))(queries, query_sums)

  # One variant after the other: only one [queries, rows] is alive at a time.
  def merge_one(variant):
    one, of_passage, of_sum, (selected, mean) = variant
    # Without its mean a passage scores less by what the mean would score.
    passages_alone = to_passages - _dot(queries, mean[None])
    similarity = of_passage * passages_alone + of_sum * to_sums[selected]
    return _merge(one, similarity, start, num_valid, k)

  return jax.lax.map(
    merge_one, (best, mixture.passage, mixture.query_sum, choice)
  )


# ------------------------------------------------------------------ streaming


def _pad_rows(array: np.ndarray, rows: int) -> np.ndarray:
  """Appends rows of zeros, so that every block has one compiled shape."""
  missing = rows - len(array)
  if not missing:
    return np.ascontiguousarray(array, np.float32)
  widths = [(0, missing), *[(0, 0)] * (array.ndim - 1)]
  return np.pad(np.asarray(array, np.float32), widths)


def _batch_queries(
  queries: Float[np.ndarray, "queries dim"],
) -> list[Float[Array, "batch dim"]]:
  size = min(QUERY_BATCH, len(queries))
  starts = range(0, len(queries), size)
  return [jnp.asarray(_pad_rows(queries[i : i + size], size)) for i in starts]


def _no_best(num_variants: int, num_queries: int, k: int) -> _Best:
  shape = (num_variants, num_queries, k)
  return _Best(
    jnp.full(shape, -jnp.inf, jnp.float32), jnp.full(shape, -1, jnp.int32)
  )


def search_exact(
  queries: Float[np.ndarray, "queries query_dim"],
  blocks: Iterable[tuple[int, np.ndarray]],
  k: int,
) -> Neighbors:
  """Finds the k passages with the largest inner product for each query.

  Args:
    queries: query embeddings, float32.
    blocks: (first row, vectors [rows, dim]) in order of rows, none larger than
      the first; what `AugmentedView.blocks` yields.
    k: how many neighbors; as many as there are passages when that is less.

  Returns:
    (scores [queries, k] float32, rows [queries, k] int32), best first; among
    equal scores the lower row comes first.

  Raises:
    InputError: a query or passage that is not finite, queries of another
      dimension, or an empty corpus.
    ValueError: blocks out of order or growing.

  >>> corpus = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], np.float32)
  >>> queries = np.array([[2.0, 1.0]], np.float32)
  >>> scores, rows = search_exact(queries, [(0, corpus)], 2)
  >>> scores.tolist(), rows.tolist()
  ([[3.0, 2.0]], [[2, 0]])
  """
  batches = _batch_queries(queries) if len(queries) else []
  best: list[_Best] = []
  num_rows = capacity = 0
  for start, vectors in blocks:
    if not best:
      check_queries(queries, dim=vectors.shape[1], k=k)
      capacity = len(vectors)
      # More columns are added while there are fewer than k.
      width = min(k, capacity)
      best = [_no_best(1, len(batch), width) for batch in batches]
    _check_order(start, num_rows, len(vectors), capacity)
    check_vectors(vectors, "passage", first_row=start)
    passages = jnp.asarray(_pad_rows(vectors, capacity))
    best = [
      _update(b, q, passages, np.int32(start), np.int32(len(vectors)), k=k)
      for b, q in zip(best, batches, strict=True)
    ]
    num_rows += len(vectors)
  if not num_rows:
    raise InputError("the corpus is empty", mend="encode some passages")
  return _finish(best, len(queries), num_rows)[0]


# ------------------------------------------------------------------- variants


@dataclasses.dataclass(frozen=True)
class _Variants:
  """Augmentations, at least one not None, and the query sums they need.

  Variants that add up the same columns of the store share one product.

  Attributes:
    augmentations: one a variant.
    weights: of the store's query sums, one row a selection.
    means: what a selection removes; None: nothing.
    choice: by variant its selection, and what its passages are without.
  """

  augmentations: Sequence[Augmentation | None]
  weights: Sequence[Float[np.ndarray, " groups"]]
  means: Sequence[Means | None]
  choice: _Choice

  @classmethod
  def plan(
    cls, store: EmbeddingStore, augmentations: Sequence[Augmentation | None]
  ) -> "_Variants":
    keys: list[tuple[bytes, bool]] = []
    weights: list[np.ndarray] = []
    means: list[Means | None] = []
    selection = np.zeros(len(augmentations), np.int32)
    removed = np.zeros((len(augmentations), store.dim), np.float32)
    for variant, augmentation in enumerate(augmentations):
      if augmentation is None:
        continue  # gives its sums no weight: any selection will do
      factors = group_weights(store.groups, augmentation)
      key = (factors.tobytes(), augmentation.remove_mean)
      if key not in keys:
        keys.append(key)
        weights.append(factors)
        means.append(measure_means(store, factors) if key[1] else None)
      selection[variant] = keys.index(key)
      if (found := means[selection[variant]]) is not None:
        removed[variant] = found.passage
    return cls(augmentations, weights, means, _Choice(selection, removed))

  def sum_queries(
    self, block: StoreBlock
  ) -> tuple[Float[np.ndarray, "selections rows dim"], list[np.ndarray]]:
    """Query sums and counts of each passage for each selection of columns."""
    sums, counts = [], []
    for weights, means in zip(self.weights, self.means, strict=True):
      # [rows, groups, dim] -> [rows, dim]
      query_sum, count = sum_groups(block, weights)
      if means is not None:
        query_sum = means.remove(block.passages, query_sum, count)[1]
      sums.append(query_sum)
      counts.append(count)
    return np.stack(sums), counts

  def mix(self, num_rows: int, counts: Sequence[np.ndarray]) -> _Mixture:
    """The weights that give each variant's score of each passage."""
    weights = [
      self._get_weights(num_rows, counts[selected], augmentation)
      for selected, augmentation in zip(
        self.choice.selection, self.augmentations, strict=True
      )
    ]
    passage, query_sum = zip(*weights, strict=True)
    return _Mixture(np.stack(passage), np.stack(query_sum))

  def _get_weights(
    self, num_rows: int, count: np.ndarray, augmentation: Augmentation | None
  ) -> tuple[np.ndarray, np.ndarray]:
    if augmentation is None:
      return np.ones(num_rows, np.float32), np.zeros(num_rows, np.float32)
    return get_weights(
      count, reduction=augmentation.reduction, alpha=augmentation.alpha
    )


def score_variants(
  queries: Float[np.ndarray, "queries query_dim"],
  store: EmbeddingStore,
  augmentations: Sequence[Augmentation | None],
  k: int,
  *,
  block_size: int = BLOCK_SIZE // 2,
) -> list[Neighbors]:
  """Searches several augmentations of one store in one pass.

  Two products, with the passages, q.p, and with their query sums, q.S, give
  the scores of every variant: for "sum" (1 - a) q.p + a q.S, for "mean"
  (1 - a) q.p + a q.S / count, and q.p alone for passages without queries.

  Args:
    queries: query embeddings, float32.
    store: the passages and their query sums.
    augmentations: the variants; None stands for the passages as they are.
    k: how many neighbors of each query.
    block_size: passages read at a time.

  Returns:
    For each variant what `search_exact` returns.

  Raises:
    InputError: as `search_exact`, or a store without the query sums asked for.
  """
  check_queries(queries, dim=store.dim, k=k)
  if all(augmentation is None for augmentation in augmentations):
    blocks = store.blocks(block_size, use_queries=False)
    pairs = ((block.start, block.passages) for block in blocks)
    return [search_exact(queries, pairs, k)] * len(augmentations)
  variants = _Variants.plan(store, augmentations)
  batches = _batch_queries(queries)
  k = min(k, store.num_passages)
  best = [_no_best(len(augmentations), len(batch), k) for batch in batches]
  capacity = min(block_size, store.num_passages)
  for block in store.blocks(block_size):
    best = _update_batches(best, batches, block, variants, capacity, k)
  return _finish(best, len(queries), store.num_passages)


def _update_batches(
  best: Sequence[_Best],
  batches: Sequence[Float[Array, "batch dim"]],
  block: StoreBlock,
  variants: _Variants,
  capacity: int,
  k: int,
) -> list[_Best]:
  """Merges one block of the store into the best rows of all variants."""
  check_vectors(block.passages, "passage", first_row=block.start)
  query_sums, counts = variants.sum_queries(block)
  for sums in query_sums:
    check_vectors(sums, "query sum", first_row=block.start)
  passages = jnp.asarray(_pad_rows(block.passages, capacity))
  padded_sums = jnp.stack([_pad_rows(sums, capacity) for sums in query_sums])
  mixture = variants.mix(len(block.passages), counts)
  mixture = _Mixture(*(_pad_rows(w.T, capacity).T for w in mixture))
  return [
    _update_variants(
      one,
      batch,
      passages,
      padded_sums,
      mixture,
      variants.choice,
      np.int32(block.start),
      np.int32(len(block.passages)),
      k=k,
    )
    for one, batch in zip(best, batches, strict=True)
  ]
