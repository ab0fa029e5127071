"""Exact inner-product search, streamed over the corpus in blocks.

The whole corpus is never in memory: each block goes to the devices once, a
part to each, is multiplied with all queries, and its best rows are merged with
the best so far. Among equal scores the lower row wins, whatever the block size
and the number of devices.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from xqg_jax.errors import InputError
from xqg_jax.indexes.exact.blocks import batch_queries, dot, pad_rows
from xqg_jax.indexes.exact.cpu_search import CpuSearch
from xqg_jax.indexes.neighbors import (
  Neighbors,
  cut_padding,
  join_batches,
  merge_neighbors,
  merge_processes,
  take_turn,
)
from xqg_jax.runtime import cpu_forms
from xqg_jax.runtime.sharding import Device
from xqg_jax.store.vector_checks import check_queries, check_vectors

BLOCK_SIZE = 65_536
# Columns are first compared by the maximum of groups of this many.
_GROUP = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExactSettings:
  """Precision of exact search on accelerators.

  Attributes:
    dtype: what the factors of the products are rounded to; sums are float32.
    recall_target: share of the best rows of each block that a TPU has to find
      with `jax.lax.approx_max_k`; None, or another device: all of them.
  """

  dtype: Literal["float32", "bfloat16"] = "float32"
  recall_target: float | None = None

  def __post_init__(self):
    if self.dtype not in ("float32", "bfloat16"):
      raise InputError(
        f"unknown dtype {self.dtype!r}", mend='use "float32" or "bfloat16"'
      )
    if self.recall_target is not None and not 0 < self.recall_target <= 1:
      raise InputError(
        f"recall_target is {self.recall_target}",
        mend="use a share above 0 and at most 1, such as 0.99",
      )


EXACT = ExactSettings()


class Best(NamedTuple):
  """The best rows so far, best first; -1 where there is none yet."""

  scores: Float[Array, "variants queries k"]
  rows: Int[Array, "variants queries k"]


# --------------------------------------------------------------------- checks


def _check_order(start: int, expected: int, rows: int, capacity: int) -> None:
  if start != expected:
    raise ValueError(f"a block starts at row {start}, expected {expected}")
  if rows > capacity:
    raise ValueError(f"a block of {rows} rows follows one of {capacity}")


# -------------------------------------------------------------- on the device


def _top_columns(
  scores: Float[Array, "queries columns"],
  k: int,
  recall_target: float | None = None,
) -> tuple[Float[Array, "queries best"], Int[Array, "queries best"]]:
  """`lax.top_k`, through the maxima of groups where that is less work.

  The k best columns lie in the k groups with the largest maxima; groups and
  columns are kept in order, so equal scores still favour the lower column.
  """
  queries, columns = scores.shape
  if recall_target is not None:
    best, places = jax.lax.approx_max_k(
      scores, min(k, columns), recall_target=recall_target
    )
    return best, places
  if columns % _GROUP or columns // _GROUP < 4 * k:
    best, places = jax.lax.top_k(scores, min(k, columns))
    return best, places
  # [queries, columns] -> [queries, groups] -> [queries, k]
  maxima = scores.reshape(queries, -1, _GROUP).max(axis=-1)
  groups = jnp.sort(jax.lax.top_k(maxima, k)[1], axis=-1)
  # [queries, k] -> [queries, k * group]
  inside = groups[:, :, None] * _GROUP + jnp.arange(_GROUP)
  inside = inside.reshape(queries, -1)
  best, at = jax.lax.top_k(jnp.take_along_axis(scores, inside, axis=1), k)
  return best, jnp.take_along_axis(inside, at, axis=1)


def merge_columns(
  best: Best,
  similarity: Float[Array, "queries columns"],
  start: Int[Array, ""],
  num_valid: Int[Array, ""],
  k: int,
  recall_target: float | None = None,
) -> Best:
  """Merges one block's similarities into the best rows of one variant."""
  is_valid = jnp.arange(similarity.shape[1]) < num_valid
  # NaN has to win, to be refused; sorts have it first or last by its sign.
  wins = jnp.where(jnp.isnan(similarity), jnp.inf, similarity)
  masked = jnp.where(is_valid, wins, -jnp.inf)
  scores, columns = _top_columns(masked, k, recall_target)
  # The rows found earlier come first: they are lower, and win ties.
  scores = jnp.concatenate([best.scores, scores], axis=1)
  rows = jnp.concatenate([best.rows, columns + start], axis=1)
  scores, at = jax.lax.top_k(scores, min(k, scores.shape[1]))
  return Best(scores, jnp.take_along_axis(rows, at, axis=1))


@functools.partial(jax.jit, static_argnames=("k", "settings"))
def _update(
  best: Best,
  queries: Float[Array, "queries dim"],
  passages: Float[Array, "rows dim"],
  start: Int[Array, ""],
  num_valid: Int[Array, ""],
  *,
  k: int,
  settings: ExactSettings,
) -> Best:
  one = jax.tree.map(lambda x: x[0], best)
  similarity = dot(queries, passages, settings.dtype)
  merged = merge_columns(
    one, similarity, start, num_valid, k, settings.recall_target
  )
  return jax.tree.map(lambda x: x[None], merged)


# ------------------------------------------------------------------ streaming


def no_best(num_variants: int, num_queries: int, k: int) -> Best:
  """Before the first block."""
  shape = (num_variants, num_queries, k)
  return Best(
    jnp.full(shape, -jnp.inf, jnp.float32), jnp.full(shape, -1, jnp.int32)
  )


def list_devices() -> list[Device]:
  """All local accelerators, or one CPU, which uses all cores by itself."""
  devices = jax.local_devices()
  return devices[:1] if devices[0].platform == "cpu" else devices


class _AcceleratorSearch:
  """Keeps the best rows on one device; every block has one shape."""

  def __init__(
    self,
    queries: Float[np.ndarray, "queries dim"],
    *,
    k: int,
    capacity: int,
    device: Device,
    settings: ExactSettings,
  ):
    self._k, self._capacity, self._settings = k, capacity, settings
    self._device = device
    self._batches = batch_queries(queries, device)
    # More columns are added while there are fewer than k.
    self._best = [
      jax.device_put(no_best(1, len(batch), min(k, capacity)), device)
      for batch in self._batches
    ]

  def add(self, start: int, vectors: Float[np.ndarray, "rows dim"]) -> None:
    passages = jax.device_put(pad_rows(vectors, self._capacity), self._device)
    bounds = np.int32(start), np.int32(len(vectors))
    self._best = [
      _update(
        best, batch, passages, *bounds, k=self._k, settings=self._settings
      )
      for best, batch in zip(self._best, self._batches, strict=True)
    ]

  def finish(self) -> Neighbors:
    return join_batches([(b.scores[0], b.rows[0]) for b in self._best])


def search_exact(
  queries: Float[np.ndarray, "queries query_dim"],
  blocks: Iterable[tuple[int, np.ndarray]],
  k: int,
  *,
  settings: ExactSettings = EXACT,
  devices: Sequence[Device] | None = None,
  across_processes: bool = False,
) -> Neighbors:
  """Finds the k passages with the largest inner product for each query.

  Args:
    queries: query embeddings, float32.
    blocks: (first row, vectors [rows, dim]) in order of rows, none larger than
      the first; what `AugmentedView.blocks` yields.
    k: how many neighbors; as many as there are passages when that is less.
    settings: dtype of the products, and how many of the best have to be found.
    devices: each takes a part of every block; all local ones when absent.
    across_processes: whether all processes of a run call this with the same
      arguments; each multiplies the blocks of its turn, all get the result.

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
  devices = devices or list_devices()
  searches: list[_AcceleratorSearch | CpuSearch] = []
  num_rows = capacity = part = 0
  turn, num_turns = take_turn(across_processes)
  for block, (start, vectors) in enumerate(blocks):
    if not searches:
      check_queries(queries, dim=vectors.shape[1], k=k)
      capacity, part = len(vectors), -(-len(vectors) // len(devices))
      searches = [
        _start_search(queries, k, part, device, settings) for device in devices
      ]
    _check_order(start, num_rows, len(vectors), capacity)
    check_vectors(vectors, "passage", first_row=start)
    own = searches if block % num_turns == turn else []
    for number, search in enumerate(own):
      rows = vectors[number * part : (number + 1) * part]
      if len(rows):
        search.add(start + number * part, rows)
    num_rows += len(vectors)
  if not num_rows:
    raise InputError("the corpus is empty", mend="encode some passages")
  found = merge_neighbors([search.finish() for search in searches], k)
  if across_processes:
    found = merge_processes(found, min(k, num_rows))
  return cut_padding(found, num_queries=len(queries), num_rows=num_rows)


def _start_search(
  queries: Float[np.ndarray, "queries dim"],
  k: int,
  capacity: int,
  device: Device,
  settings: ExactSettings,
) -> _AcceleratorSearch | CpuSearch:
  if cpu_forms.are_for(device):
    return CpuSearch(queries, k=k, device=device, dtype=settings.dtype)
  return _AcceleratorSearch(
    queries, k=k, capacity=capacity, device=device, settings=settings
  )
