"""Exact search of all augmentations of one store in one pass.

Two products, with the passages and with their query sums, give the scores of
every variant; `exact_search.py` keeps the best of each.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from xqg_jax.augmentation.fusion import (
  Means,
  get_weights,
  group_weights,
  measure_means,
  sum_groups,
)
from xqg_jax.augmentation.settings import Augmentation
from xqg_jax.indexes.exact.blocks import batch_queries, dot, pad_rows
from xqg_jax.indexes.exact.search import (
  BLOCK_SIZE,
  Best,
  list_devices,
  merge_columns,
  no_best,
  search_exact,
)
from xqg_jax.indexes.neighbors import (
  Neighbors,
  cut_padding,
  join_batches,
  merge_neighbors,
)
from xqg_jax.runtime.sharding import Device
from xqg_jax.store.store import EmbeddingStore, StoreBlock
from xqg_jax.store.vector_checks import check_queries, check_vectors


class _Mixture(NamedTuple):
  """How much of a passage and of its query sum goes into each variant."""

  passage: Float[np.ndarray, "variants rows"]
  query_sum: Float[np.ndarray, "variants rows"]


class _Choice(NamedTuple):
  """Which query sums a variant takes, and what it subtracts from passages."""

  selection: Int[np.ndarray, " variants"]
  mean_passage: Float[np.ndarray, "variants dim"]


@functools.partial(jax.jit, static_argnames="k")
def _update_variants(
  best: Best,
  queries: Float[Array, "queries dim"],
  passages: Float[Array, "rows dim"],
  query_sums: Float[Array, "selections rows dim"],
  mixture: _Mixture,
  choice: _Choice,
  start: Int[Array, ""],
  num_valid: Int[Array, ""],
  *,
  k: int,
) -> Best:
  """Two products, then each variant's similarities are a mixture of them."""
  to_passages = dot(queries, passages)
  to_sums = jax.vmap(dot, in_axes=(None, 0))(queries, query_sums)

  # One variant after the other: only one [queries, rows] is alive at a time.
  def merge_one(variant):
    one, of_passage, of_sum, (selected, mean) = variant
    # Without its mean a passage scores less by what the mean would score.
    passages_alone = to_passages - dot(queries, mean[None])
    similarity = of_passage * passages_alone + of_sum * to_sums[selected]
    return merge_columns(one, similarity, start, num_valid, k)

  return jax.lax.map(
    merge_one, (best, mixture.passage, mixture.query_sum, choice)
  )


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


class _DeviceSweep:
  """The best rows of all variants on one device; parts have one shape."""

  def __init__(
    self,
    queries: Float[np.ndarray, "queries dim"],
    choice: _Choice,
    *,
    k: int,
    capacity: int,
    device: Device,
  ):
    self._k, self._capacity, self._device = k, capacity, device
    self._choice = jax.device_put(choice, device)
    self._batches = batch_queries(queries, device)
    num_variants = len(choice.selection)
    self._best = [
      jax.device_put(no_best(num_variants, len(batch), k), device)
      for batch in self._batches
    ]

  def add(
    self,
    start: int,
    passages: Float[np.ndarray, "rows dim"],
    query_sums: Float[np.ndarray, "selections rows dim"],
    mixture: _Mixture,
  ) -> None:
    """Merges further rows, the first of them row `start` of the store."""
    padded = (
      pad_rows(passages, self._capacity),
      np.stack([pad_rows(sums, self._capacity) for sums in query_sums]),
      _Mixture(*(pad_rows(w.T, self._capacity).T for w in mixture)),
    )
    rows = jax.device_put(padded, self._device)
    bounds = np.int32(start), np.int32(len(passages))
    self._best = [
      _update_variants(best, batch, *rows, self._choice, *bounds, k=self._k)
      for best, batch in zip(self._best, self._batches, strict=True)
    ]

  def finish(self) -> list[Neighbors]:
    """Scores and rows of each variant; -inf and -1 where there is no row."""
    return [
      join_batches([(b.scores[v], b.rows[v]) for b in self._best])
      for v in range(len(self._choice.selection))
    ]


def score_variants(
  queries: Float[np.ndarray, "queries query_dim"],
  store: EmbeddingStore,
  augmentations: Sequence[Augmentation | None],
  k: int,
  *,
  block_size: int = BLOCK_SIZE // 2,
  devices: Sequence[Device] | None = None,
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
    devices: each takes a part of every block; all local ones when absent.

  Returns:
    For each variant what `search_exact` returns.

  Raises:
    InputError: as `search_exact`, or a store without the query sums asked for.
  """
  check_queries(queries, dim=store.dim, k=k)
  devices = devices or list_devices()
  if all(augmentation is None for augmentation in augmentations):
    blocks = store.blocks(block_size, use_queries=False)
    pairs = ((block.start, block.passages) for block in blocks)
    found = search_exact(queries, pairs, k, devices=devices)
    return [found] * len(augmentations)
  variants = _Variants.plan(store, augmentations)
  k = min(k, store.num_passages)
  part = -(-min(block_size, store.num_passages) // len(devices))
  sweeps = [
    _DeviceSweep(queries, variants.choice, k=k, capacity=part, device=device)
    for device in devices
  ]
  for block in store.blocks(block_size):
    _add_block(sweeps, block, variants, part)
  size = {"num_queries": len(queries), "num_rows": store.num_passages}
  return [
    cut_padding(merge_neighbors(found, k), **size)
    for found in zip(*(sweep.finish() for sweep in sweeps), strict=True)
  ]


def _add_block(
  sweeps: Sequence[_DeviceSweep],
  block: StoreBlock,
  variants: _Variants,
  part: int,
) -> None:
  """Gives each device its part of one block of the store."""
  check_vectors(block.passages, "passage", first_row=block.start)
  query_sums, counts = variants.sum_queries(block)
  for sums in query_sums:
    check_vectors(sums, "query sum", first_row=block.start)
  mixture = variants.mix(len(block.passages), counts)
  for number, sweep in enumerate(sweeps):
    rows = slice(number * part, (number + 1) * part)
    passages = block.passages[rows]
    if len(passages):
      own = _Mixture(*(weights[:, rows] for weights in mixture))
      first = block.start + rows.start
      sweep.add(first, passages, query_sums[:, rows], own)
