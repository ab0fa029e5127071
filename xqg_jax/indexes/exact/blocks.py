"""Blocks of queries and passages of fixed shapes, and their products."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from xqg_jax.runtime.sharding import Device

QUERY_BATCH = 512


def dot(
  queries: Float[Array, "queries dim"],
  vectors: Float[Array, "rows dim"],
  dtype: str = "float32",
) -> Float[Array, "queries rows"]:
  """Inner products in float32, of factors rounded to `dtype`."""
  if dtype == "float32":
    # Accelerators would otherwise round the factors to bfloat16 or TF32.
    return jnp.matmul(queries, vectors.T, precision=jax.lax.Precision.HIGHEST)
  return jnp.matmul(
    queries.astype(dtype),
    vectors.astype(dtype).T,
    preferred_element_type=jnp.float32,
  )


def pad_rows(array: np.ndarray, rows: int) -> np.ndarray:
  """Appends rows of zeros, so that every block has one compiled shape."""
  missing = rows - len(array)
  if not missing:
    return np.ascontiguousarray(array, np.float32)
  widths = [(0, missing), *[(0, 0)] * (array.ndim - 1)]
  return np.pad(np.asarray(array, np.float32), widths)


def batch_queries(
  queries: Float[np.ndarray, "queries dim"], device: Device | None = None
) -> list[Float[Array, "batch dim"]]:
  """Cuts the queries into batches of one size, the last one padded."""
  if not len(queries):
    return []
  size = -(-len(queries) // -(-len(queries) // QUERY_BATCH))
  starts = range(0, len(queries), size)
  return [
    jax.device_put(pad_rows(queries[i : i + size], size), device)
    for i in starts
  ]
