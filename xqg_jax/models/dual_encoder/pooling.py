"""Pooling of packed hidden states to one vector per text.

A new pooling is one entry of `POOLINGS`.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


@dataclasses.dataclass(frozen=True)
class Pooling:
  """A weighted average of a text's hidden states.

  Attributes:
    hf_name: the field of sentence-transformers' `1_Pooling/config.json`.
    weigh: takes which tokens are a text's ([rows, texts, length] bool) and
      their positions ([rows, 1, length]); returns weights, zero elsewhere.
    is_first_token: whether it needs nothing but the token at position 0.
  """

  hf_name: str
  weigh: Callable[[Array, Array], Array]
  is_first_token: bool = False


POOLINGS: Mapping[str, Pooling] = {
  "cls": Pooling(
    "pooling_mode_cls_token",
    lambda is_taken, positions: is_taken & (positions == 0),
    is_first_token=True,
  ),
  "mean": Pooling(
    "pooling_mode_mean_tokens", lambda is_taken, positions: is_taken
  ),
}


def pool_segments(
  hidden: Float[Array, "rows length dim"],
  segment_ids: Int[Array, "rows length"],
  positions: Int[Array, "rows length"],
  *,
  pooling: str,
  num_segments: int,
) -> Float[Array, "rows num_segments dim"]:
  """Pools every text of packed rows, in fp32.

  Args:
    hidden: the encoder's last hidden state.
    segment_ids: 1 to `num_segments`; 0 is padding.
    positions: the place of a token in its text.
    pooling: a name of `POOLINGS`: `cls` takes the token at position 0, `mean`
      averages all.
    num_segments: texts per row; an absent text pools to zeros.

  Returns:
    The pooled vectors, segment 1 first.

  >>> hidden = jnp.array([[[1.0], [3.0], [5.0], [9.0]]])
  >>> segment_ids = jnp.array([[1, 1, 2, 0]])
  >>> positions = jnp.array([[0, 1, 0, 0]])
  >>> pool_segments(
  ...   hidden, segment_ids, positions, pooling="mean", num_segments=3
  ... ).tolist()
  [[[2.0], [5.0], [0.0]]]
  """
  segments = jnp.arange(1, num_segments + 1)
  # [rows, length] -> [rows, num_segments, length]
  is_taken = segment_ids[:, None, :] == segments[:, None]
  weights = POOLINGS[pooling].weigh(is_taken, positions[:, None, :])
  weights = weights.astype(jnp.float32)
  # [rows, length, dim] -> [rows, num_segments, dim]
  sums = jnp.einsum(
    "rsl,rld->rsd",
    weights,
    hidden.astype(jnp.float32),
    precision=jax.lax.Precision.HIGHEST,
  )
  counts = jnp.sum(weights, axis=-1, keepdims=True)
  return sums / jnp.maximum(counts, 1.0)


def find_first_tokens(
  segment_ids: Int[Array, "rows length"],
  positions: Int[Array, "rows length"],
  *,
  num_segments: int,
) -> tuple[Int[Array, "rows num_segments"], Bool[Array, "rows num_segments"]]:
  """Where the texts of packed rows begin.

  Args:
    segment_ids: 1 to `num_segments`; 0 is padding.
    positions: the place of a token in its text.
    num_segments: texts per row.

  Returns:
    The column of each text's first token, 0 where there is no such text, and
    whether there is one.

  >>> columns, is_text = find_first_tokens(
  ...   jnp.array([[1, 1, 2, 0]]), jnp.array([[0, 1, 0, 0]]), num_segments=3
  ... )
  >>> columns.tolist(), is_text.tolist()
  ([[0, 2, 0]], [[True, True, False]])
  """
  segments = jnp.arange(1, num_segments + 1)
  # [rows, length] -> [rows, num_segments, length]
  is_first = (segment_ids[:, None, :] == segments[:, None]) & (positions == 0)[
    :, None, :
  ]
  return jnp.argmax(is_first, axis=-1), is_first.any(axis=-1)


def normalize_embeddings(
  embeddings: Float[Array, "*batch dim"],
) -> Float[Array, "*batch dim"]:
  """Scales vectors to unit length; zeros stay zeros, with a zero gradient.

  >>> normalize_embeddings(jnp.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
  [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
  """
  squares = jnp.sum(jnp.square(embeddings), axis=-1, keepdims=True)
  return embeddings / jnp.sqrt(jnp.maximum(squares, 1e-24))
