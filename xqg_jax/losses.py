"""Losses: in-batch softmax for the dual encoder, chunked cross-entropy.

Both are pure functions of arrays. Under `jax.jit` with a sharded batch they
are global: a query's in-batch negatives are the passages of all devices.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# Logits that are on the device at once unless a chunk length says otherwise.
MAX_LOGITS = 2**26


def in_batch_softmax_loss(
  query_embeddings: Float[Array, "queries dim"],
  passage_embeddings: Float[Array, "passages dim"],
  *,
  temperature: float = 1.0,
  passage_mask: Bool[Array, " passages"] | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
  """Softmax cross-entropy of each query's positive among all passages.

  The passages stand in groups, one for each query: with n hard negatives for
  each query, passage `i * (1 + n)` is the positive of query i and the n
  passages after it are its hard negatives. Every passage of another query is
  an in-batch negative. (The groups keep a query and its passages on one
  device; Karpukhin et al. 2020, section 3.2, has the loss.)

  Args:
    query_embeddings: one row a query.
    passage_embeddings: `queries * (1 + n)` rows.
    temperature: the similarities are divided by it.
    passage_mask: False where a row holds no passage, as for a query with
      fewer hard negatives than the others; such a row is nobody's negative.

  Returns:
    The mean loss over the queries, and {"accuracy": the share of queries
    whose positive has the highest similarity}.

  Raises:
    ValueError: the number of passages is no multiple of that of the queries.

  Two queries, no hard negatives; the loss is log(1 + e^-1) and
  log(1 + e^-2), the mean of which is 0.2201:

  >>> queries = jnp.array([[1.0, 0.0], [0.0, 2.0]])
  >>> passages = jnp.array([[1.0, 0.0], [0.0, 1.0]])
  >>> loss, metrics = in_batch_softmax_loss(queries, passages)
  >>> print(f"{loss:.4f} {metrics['accuracy']:.1f}")
  0.2201 1.0
  """
  num_queries, num_passages = len(query_embeddings), len(passage_embeddings)
  if num_passages % num_queries:
    raise ValueError(
      f"{num_passages} passages cannot be split into groups for "
      f"{num_queries} queries"
    )
  # [queries, dim], [passages, dim] -> [queries, passages]
  logits = jnp.einsum(
    "qd,pd->qp",
    query_embeddings,
    passage_embeddings,
    preferred_element_type=jnp.float32,
  )
  logits = logits / temperature
  if passage_mask is not None:
    logits = jnp.where(passage_mask, logits, jnp.finfo(logits.dtype).min)
  positives = jnp.arange(num_queries) * (num_passages // num_queries)
  # [queries, passages] -> [queries]
  log_probs = jax.nn.log_softmax(logits)
  losses = -jnp.take_along_axis(log_probs, positives[:, None], axis=1)[:, 0]
  hits = jnp.argmax(logits, axis=1) == positives
  return jnp.mean(losses), {"accuracy": jnp.mean(hits, dtype=jnp.float32)}


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
