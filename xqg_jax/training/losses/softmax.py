"""In-batch softmax: each query's positive among all passages of the batch.

The passages of a batch stand in groups, one for each query: with n hard
negatives, passage `i * (1 + n)` is the positive of query i and the n passages
after it are its hard negatives. Every passage of another query is an in-batch
negative.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Losses = dict[str, Float[Array, ""]]


def compute_scores(
  query_embeddings: Float[Array, "queries dim"],
  passage_embeddings: Float[Array, "passages dim"],
  temperature: float = 1.0,
) -> Float[Array, "queries passages"]:
  """Inner products of all queries with all passages, over the temperature.

  Raises:
    ValueError: the number of passages is no multiple of that of the queries.
  """
  num_queries, num_passages = len(query_embeddings), len(passage_embeddings)
  if num_passages % num_queries:
    raise ValueError(
      f"{num_passages} passages cannot be split into groups for "
      f"{num_queries} queries"
    )
  # [queries, dim], [passages, dim] -> [queries, passages]
  scores = jnp.einsum(
    "qd,pd->qp",
    query_embeddings,
    passage_embeddings,
    preferred_element_type=jnp.float32,
  )
  return scores / temperature


def in_batch_softmax_loss(
  scores: Float[Array, "queries passages"],
  *,
  excluded: Bool[Array, "_ passages"] | None = None,
  symmetric: bool = False,
) -> tuple[Float[Array, ""], Losses]:
  """Softmax cross-entropy of each query's positive among all passages.

  Karpukhin et al. 2020, section 3.2; the symmetric form is that of Radford et
  al. 2021, with the positives alone on the passages' side.

  Args:
    scores: of each query with each passage.
    excluded: what is nobody's negative, or not that query's; a positive is
      never excluded from its own query's softmax.
    symmetric: averages with the loss of each positive's query among all
      queries.

  Returns:
    The mean loss over the queries, and {"accuracy": the share of queries
    whose positive has the highest score}.

  Two queries, no hard negatives; the loss is log(1 + e^-1) and
  log(1 + e^-2), the mean of which is 0.2201:

  >>> scores = jnp.array([[1.0, 0.0], [0.0, 2.0]])
  >>> loss, metrics = in_batch_softmax_loss(scores)
  >>> print(f"{loss:.4f} {metrics['accuracy']:.1f}")
  0.2201 1.0
  """
  num_queries, num_passages = scores.shape
  positives = jnp.arange(num_queries) * (num_passages // num_queries)
  if excluded is not None:
    is_positive = positives[:, None] == jnp.arange(num_passages)
    lowest = jnp.finfo(scores.dtype).min
    scores = jnp.where(excluded & ~is_positive, lowest, scores)
  loss = _softmax_loss(scores, positives)
  if symmetric:
    # [queries, passages] -> [positives, queries]
    backward = scores[:, positives].T
    loss = (loss + _softmax_loss(backward, jnp.arange(num_queries))) / 2
  hits = jnp.argmax(scores, axis=1) == positives
  return loss, {"accuracy": jnp.mean(hits, dtype=jnp.float32)}


def _softmax_loss(
  scores: Float[Array, "rows columns"], right: Int[Array, " rows"]
) -> Float[Array, ""]:
  log_probs = jax.nn.log_softmax(scores)
  return -jnp.mean(jnp.take_along_axis(log_probs, right[:, None], axis=1))
