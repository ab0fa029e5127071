"""Distillation losses: a teacher's scores of a query's own passages.

A new one is a function of scores, the teacher's scores and where there is a
passage, [queries, group] each, and one entry of `DISTILLATIONS`.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def take_own_group(
  scores: Float[Array, "queries passages"],
) -> Float[Array, "queries group"]:
  """Scores of each query with its own positive and hard negatives.

  >>> take_own_group(jnp.arange(8.0).reshape(2, 4)).tolist()
  [[0.0, 1.0], [6.0, 7.0]]
  """
  num_queries = len(scores)
  # [queries, passages] -> [queries, queries, group] -> [queries, group]
  groups = scores.reshape(num_queries, num_queries, -1)
  own = jnp.arange(num_queries)[:, None, None]
  return jnp.take_along_axis(groups, own, axis=1)[:, 0]


def kl_divergence(
  scores: Float[Array, "queries group"],
  teacher_scores: Float[Array, "queries group"],
  mask: Bool[Array, "queries group"],
) -> Float[Array, ""]:
  """Divergence of the softmax from the teacher's, averaged over queries."""
  lowest = jnp.finfo(scores.dtype).min
  log_probs, wanted = (
    jax.nn.log_softmax(jnp.where(mask, x, lowest))
    for x in (scores, teacher_scores)
  )
  terms = jnp.where(mask, jnp.exp(wanted) * (wanted - log_probs), 0.0)
  return jnp.mean(jnp.sum(terms, axis=1))


def margin_mse(
  scores: Float[Array, "queries group"],
  teacher_scores: Float[Array, "queries group"],
  mask: Bool[Array, "queries group"],
) -> Float[Array, ""]:
  """Mean square by which leads over hard negatives differ from the teacher's.

  Hofstätter et al. 2020, section 3. The leads are 1 and 3, and the teacher's 2
  and 3:

  >>> scores, teacher = jnp.array([[4.0, 3, 1]]), jnp.array([[4.0, 2, 1]])
  >>> float(margin_mse(scores, teacher, jnp.ones((1, 3), bool)))
  0.5
  """
  leads, wanted = (x[:, :1] - x[:, 1:] for x in (scores, teacher_scores))
  is_negative = mask[:, 1:]
  squares = jnp.where(is_negative, jnp.square(leads - wanted), 0.0)
  return jnp.sum(squares) / jnp.maximum(jnp.sum(is_negative), 1)


DISTILLATIONS: Mapping[str, Callable[..., Float[Array, ""]]] = {
  "kl": kl_divergence,
  "margin_mse": margin_mse,
}


def distillation_loss(
  scores: Float[Array, "queries group"],
  teacher_scores: Float[Array, "queries group"],
  mask: Bool[Array, "queries group"],
  *,
  kind: str,
) -> Float[Array, ""]:
  """How far a query's scores are from its teacher's, within its own group.

  Args:
    scores: the positive's first.
    teacher_scores: of the same passages; without meaning where `mask` is
      False.
    mask: False where there is no passage.
    kind: a name of `DISTILLATIONS`.
  """
  teacher_scores = jnp.where(mask, teacher_scores, 0.0)
  return DISTILLATIONS[kind](scores, teacher_scores, mask)
