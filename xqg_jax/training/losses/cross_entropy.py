"""Cross-entropy of the query generator, in chunks of positions."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# Logits that are on the device at once unless a chunk length says otherwise.
MAX_LOGITS = 2**26


class TokenSums(NamedTuple):
  """Sums over the tokens of a batch.

  Attributes:
    loss: weighted sum of the cross-entropies, in nats.
    weight: sum of the weights.
    correct: weighted count of tokens that have the highest logit.
  """

  loss: Float[Array, ""]
  weight: Float[Array, ""]
  correct: Float[Array, ""]


def cross_entropy(
  hidden: Float[Array, "batch length embed"],
  kernel: Float[Array, "embed vocab"],
  targets: Int[Array, "batch length"],
  weights: Float[Array, "batch length"],
) -> TokenSums:
  """Cross-entropy of `softmax(hidden @ kernel)`, summed over the tokens.

  Args:
    hidden: the decoder's last states, in any float dtype.
    kernel: the output projection.
    targets: the right word of each position.
    weights: 0 at padding, else 1.

  Returns:
    The sums; the mean loss of a token is `loss / weight`.

  >>> hidden = jnp.array([[[1.0], [0.0], [5.0]]])
  >>> sums = cross_entropy(
  ...   hidden,
  ...   jnp.array([[0.0, 1.0]]),
  ...   targets=jnp.array([[1, 0, 0]]),
  ...   weights=jnp.array([[1.0, 1.0, 0.0]]),
  ... )
  >>> print(f"{sums.loss:.4f} {sums.weight} {sums.correct}")
  1.0064 2.0 2.0
  """
  # [batch, length, embed] -> [batch, length, vocab]
  logits = jnp.einsum(
    "ble,ev->blv", hidden, kernel, preferred_element_type=jnp.float32
  )
  # [batch, length, vocab] -> [batch, length]
  right = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
  losses = jax.nn.logsumexp(logits, axis=-1) - right
  hits = (jnp.argmax(logits, axis=-1) == targets).astype(jnp.float32)
  return TokenSums(
    loss=jnp.sum(losses * weights),
    weight=jnp.sum(weights),
    correct=jnp.sum(hits * weights),
  )


def chunked_cross_entropy(
  hidden: Float[Array, "batch length embed"],
  kernel: Float[Array, "embed vocab"],
  targets: Int[Array, "batch length"],
  weights: Float[Array, "batch length"],
  *,
  chunk_length: int | None = None,
) -> TokenSums:
  """Equals `cross_entropy`, but never holds all logits at once.

  A scan goes over chunks of positions, each with the whole batch (so that a
  batch split over devices stays where it is), and the backward pass makes a
  chunk's logits again instead of keeping them. mT5's 250,112 words make
  `[batch, length, vocab]` the largest array of a training step otherwise.

  Args:
    hidden: the decoder's last states.
    kernel: the output projection.
    targets: the right word of each position.
    weights: 0 at padding, else 1.
    chunk_length: positions in a chunk; by default as many as keep a chunk
      under `MAX_LOGITS` logits.

  Returns:
    The sums over all tokens.
  """
  batch, length, _ = hidden.shape
  if chunk_length is None:
    chunk_length = max(1, MAX_LOGITS // (batch * kernel.shape[1]))
  if chunk_length >= length:
    return cross_entropy(hidden, kernel, targets, weights)
  chunks = tuple(
    _split_positions(x, chunk_length) for x in (hidden, targets, weights)
  )

  @jax.checkpoint
  def add_chunk(sums: TokenSums, chunk) -> tuple[TokenSums, None]:
    chunk_sums = cross_entropy(chunk[0], kernel, chunk[1], chunk[2])
    return jax.tree.map(jnp.add, sums, chunk_sums), None

  zero = jnp.zeros((), jnp.float32)
  sums, _ = jax.lax.scan(add_chunk, TokenSums(zero, zero, zero), chunks)
  return sums


def _split_positions(x: Array, chunk_length: int) -> Array:
  """Splits axis 1 into chunks, the last one padded with zeros."""
  batch, length = x.shape[:2]
  num_chunks = -(-length // chunk_length)
  padding = [(0, 0)] * x.ndim
  padding[1] = (0, num_chunks * chunk_length - length)
  # [batch, length, ...] -> [chunks, batch, chunk_length, ...]
  x = jnp.pad(x, padding)
  x = x.reshape(batch, num_chunks, chunk_length, *x.shape[2:])
  return jnp.moveaxis(x, 1, 0)
