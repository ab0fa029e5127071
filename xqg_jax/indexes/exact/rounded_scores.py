"""Scores from bfloat16 products, with bounds of their rounding errors.

Some CPUs multiply bfloat16 twice to three times as fast as float32. Rounded
products rule out most passages; the few that may be among the best are scored
again in float32, so that nothing is lost and every score is exact.

With x~ for x rounded, |q.p - q~.p~| <= |q - q~| |p| + |q~| |p - p~| (Cauchy and
Schwarz), and a float32 sum of d products is off by at most d u / (1 - d u) of
the product of both lengths, u = 2**-24 (Higham 2002, section 3.1).
"""

import functools
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, BFloat16, Float, Int

_CPU_INFO = pathlib.Path("/proc/cpuinfo")
_INSTRUCTIONS = {"avx512_bf16", "amx_bf16"}
# Pairs that are scored at once: both sides of them stay in the cache.
_PAIRS = 512


@functools.cache
def has_fast_bfloat16() -> bool:
  """Whether this machine's CPU has instructions for bfloat16 products."""
  if not _CPU_INFO.exists():
    return False
  lines = _CPU_INFO.read_text().splitlines()
  flags = next((line for line in lines if line.startswith("flags")), "")
  return not _INSTRUCTIONS.isdisjoint(flags.split())


class Rounded(NamedTuple):
  """Vectors in bfloat16, and what bounds the errors of their products.

  Attributes:
    vectors: rounded; those of passages lie in columns, which is multiplied
      several times as fast.
    lengths: of the vectors as they were; of passages the largest.
    losses: lengths of what rounding took away; of passages the largest.
  """

  vectors: BFloat16[Array, "..."]
  lengths: Float[Array, "..."]
  losses: Float[Array, "..."]


@jax.jit
def round_queries(vectors: Float[Array, "rows dim"]) -> Rounded:
  """Rounds vectors, and measures each of them."""
  # A cast there and back may be compiled away; this is not.
  rounded = jax.lax.reduce_precision(vectors, exponent_bits=8, mantissa_bits=7)
  return Rounded(
    rounded.astype(jnp.bfloat16),
    jnp.linalg.norm(vectors, axis=1),
    jnp.linalg.norm(vectors - rounded, axis=1),
  )


@jax.jit
def round_passages(vectors: Float[Array, "rows dim"]) -> Rounded:
  """Rounds vectors into columns, and measures the worst of them."""
  rounded, lengths, losses = round_queries(vectors)
  return Rounded(rounded.T, lengths.max(), losses.max())


def bound_errors(
  queries: Rounded, passages: Rounded
) -> Float[np.ndarray, "queries 1"]:
  """How far computed rounded scores are at most from computed float32 ones."""
  lengths, losses = (np.asarray(x, np.float64)[:, None] for x in queries[1:])
  length, loss = (float(x) for x in passages[1:])
  unit = queries.vectors.shape[1] * 2.0**-24
  # Twice, for both sums, and as much again for comparing in float32 later.
  summing = 4 * unit / (1 - unit) * (lengths + losses) * (length + loss)
  errors = losses * length + (lengths + losses) * loss + summing
  return errors.astype(np.float32)


def score_pairs(
  queries: Float[np.ndarray, "queries dim"],
  passages: Float[np.ndarray, "rows dim"],
  query_rows: Int[np.ndarray, " pairs"],
  passage_rows: Int[np.ndarray, " pairs"],
) -> Float[np.ndarray, " pairs"]:
  """The inner product of each pair, the same whatever stands beside it.

  >>> pairs = np.array([0, 1]), np.array([0, 0])
  >>> score_pairs(np.eye(2), np.array([[5.0, 7.0]]), *pairs).tolist()
  [5.0, 7.0]
  """
  scores = np.empty(len(query_rows), queries.dtype)
  for start in range(0, len(scores), _PAIRS):
    some = slice(start, start + _PAIRS)
    left = queries[query_rows[some]]
    right = passages[passage_rows[some]].astype(left.dtype, copy=False)
    np.einsum("nd,nd->n", left, right, out=scores[some])
  return scores
