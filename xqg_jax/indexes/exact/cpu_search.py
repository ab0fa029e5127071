"""Exact search on CPUs: rounded scan first, top-k on the host."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, BFloat16, Float

from xqg_jax.indexes.exact.blocks import batch_queries, dot
from xqg_jax.indexes.exact.cpu_selection import GROUP, Block, HostSelection
from xqg_jax.indexes.exact.rounded_scores import (
  Rounded,
  bound_errors,
  has_fast_bfloat16,
  round_passages,
  round_queries,
  score_pairs,
)
from xqg_jax.indexes.neighbors import Neighbors, join_batches
from xqg_jax.runtime.sharding import Device

# Rows that a CPU multiplies at once: what comes out stays in its cache.
_TILE = 8192


@functools.partial(jax.jit, static_argnames="dtype")
def _multiply(
  queries: Float[Array, "queries dim"],
  passages: Float[Array, "rows dim"],
  *,
  dtype: str,
) -> tuple[Float[Array, "queries columns"], Float[Array, "queries groups"]]:
  """Scores in whole groups of columns, and the maximum of each group."""
  return _group_scores(dot(queries, passages, dtype))


@jax.jit
def _multiply_rounded(
  queries: BFloat16[Array, "queries dim"],
  passages: BFloat16[Array, "dim rows"],
) -> tuple[Float[Array, "queries columns"], Float[Array, "queries groups"]]:
  """As `_multiply`, of rounded vectors."""
  return _group_scores(
    jnp.matmul(queries, passages, preferred_element_type=jnp.float32)
  )


def _group_scores(
  scores: Float[Array, "queries rows"],
) -> tuple[Float[Array, "queries columns"], Float[Array, "queries groups"]]:
  if missing := -scores.shape[1] % GROUP:
    scores = jnp.pad(scores, ((0, 0), (0, missing)), constant_values=-jnp.inf)
  return scores, scores.reshape(len(scores), -1, GROUP).max(axis=-1)


class _CpuBatch(NamedTuple):
  """Some of the queries on a CPU, also rounded where that is faster."""

  queries: Float[Array, "batch dim"]
  rounded: Rounded | None
  selection: HostSelection


class CpuSearch:
  """Multiplies by tiles; the host chooses while the next one is multiplied."""

  def __init__(
    self,
    queries: Float[np.ndarray, "queries dim"],
    *,
    k: int,
    device: Device,
    dtype: str,
  ):
    """Takes the queries; `dtype` is what factors are rounded to."""
    self._device, self._dtype = device, dtype
    self._is_rounded = self._dtype == "float32" and has_fast_bfloat16()
    self._batches = [
      _CpuBatch(
        batch,
        round_queries(batch) if self._is_rounded else None,
        HostSelection(len(batch), k, first_query=number * len(batch)),
      )
      for number, batch in enumerate(batch_queries(queries, device))
    ]
    self._waiting = None

  def add(self, start: int, vectors: Float[np.ndarray, "rows dim"]) -> None:
    """Looks at a block of passages, `start` being its first row."""
    blocks = [
      self._make_block(batch, start, vectors) for batch in self._batches
    ]
    for first in range(0, len(vectors), _TILE):
      tile = np.asarray(vectors[first : first + _TILE], np.float32)
      passages = jax.device_put(tile, self._device)
      rounded = round_passages(passages) if self._is_rounded else None
      for batch, block in zip(self._batches, blocks, strict=True):
        if rounded is None or batch.rounded is None:
          products = _multiply(batch.queries, passages, dtype=self._dtype)
        else:
          products = _multiply_rounded(batch.rounded.vectors, rounded.vectors)
        self._select()
        bounds = {"start": start + first, "num_rows": len(tile), "block": block}
        self._waiting = batch, products, rounded, bounds

  def _make_block(
    self, batch: _CpuBatch, start: int, vectors: Float[np.ndarray, "rows dim"]
  ) -> Block | None:
    if not self._is_rounded:
      return None
    queries = np.asarray(batch.queries)
    return Block(start, functools.partial(score_pairs, queries, vectors))

  def _select(self) -> None:
    """Looks at the products before those that are being computed."""
    if not self._waiting:
      return
    batch, products, rounded, bounds = self._waiting
    errors = None
    if rounded is not None and batch.rounded is not None:
      errors = bound_errors(batch.rounded, rounded)
    batch.selection.add(*map(np.asarray, products), **bounds, errors=errors)

  def finish(self) -> Neighbors:
    """The best of all that was added."""
    self._select()
    self._waiting = None
    return join_batches([batch.selection.finish() for batch in self._batches])
