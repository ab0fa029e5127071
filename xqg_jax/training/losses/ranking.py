"""Ranking losses of the dual encoder: softmax, masking, distillation.

All are pure functions of arrays. Under `jax.jit` with a sharded batch they
are global: a query's in-batch negatives are the passages of all devices.

The passages of a batch stand in groups, one for each query: with n hard
negatives, passage `i * (1 + n)` is the positive of query i and the n passages
after it are its hard negatives. Every passage of another query is an in-batch
negative.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from xqg_jax.errors import InputError

SAME_PASSAGE, SAME_ANSWER = "same_passage", "same_answer"
DISTILLATIONS = ("kl", "margin_mse")

Losses = dict[str, Float[Array, ""]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankingObjective:
  """What a dual encoder is trained for.

  Attributes:
    temperature: the similarities are divided by it.
    symmetric: whether each positive also has to find its query among the
      queries of the batch; the mean of both directions is taken.
    masked_negatives: which in-batch negatives are left out: "same_passage",
      those with the id of the query's positive, and "same_answer", positives
      of queries that share an answer string (yes and no do not count).
    distillation: "kl" or "margin_mse", from the pairs' teacher scores; None:
      none.
    distillation_weight: its share of the loss; the rest is in-batch softmax.
  """

  temperature: float = 1.0
  symmetric: bool = False
  masked_negatives: tuple[str, ...] = ()
  distillation: str | None = None
  distillation_weight: float = 0.5

  def __post_init__(self):
    object.__setattr__(self, "masked_negatives", tuple(self.masked_negatives))
    if not self.temperature > 0:
      raise InputError(
        f"temperature is {self.temperature}", mend="give it more than 0"
      )
    for name in self.masked_negatives:
      _check_name(name, (SAME_PASSAGE, SAME_ANSWER), "masked_negatives")
    if self.distillation is not None:
      _check_name(self.distillation, DISTILLATIONS, "distillation")
    if not 0 <= self.distillation_weight <= 1:
      raise InputError(
        f"distillation_weight is {self.distillation_weight}",
        mend="give it 0 to 1",
      )

  @property
  def batch_features(self) -> tuple[str, ...]:
    """What it needs of a batch beside tokens."""
    wanted = {
      "passage_ids": SAME_PASSAGE in self.masked_negatives,
      "answer_ids": SAME_ANSWER in self.masked_negatives,
      "teacher_scores": self.distillation is not None,
    }
    return tuple(name for name, is_wanted in wanted.items() if is_wanted)

  def __call__(
    self,
    query_embeddings: Float[Array, "queries dim"],
    passage_embeddings: Float[Array, "passages dim"],
    *,
    passage_mask: Bool[Array, " passages"],
    batch: Mapping[str, Array],
  ) -> tuple[Float[Array, ""], Losses]:
    """The loss, and `accuracy` with the parts of which the loss consists.

    Args:
      query_embeddings: one row a query.
      passage_embeddings: `queries * (1 + n)` rows.
      passage_mask: False where a row holds no passage.
      batch: with `batch_features`: `passage_ids` [queries, 1 + n, 2],
        `answer_ids` [queries, answers, 2], `teacher_scores` [queries, 1 + n].
    """
    scores = compute_scores(
      query_embeddings, passage_embeddings, self.temperature
    )
    excluded = ~passage_mask[None, :]
    if SAME_PASSAGE in self.masked_negatives:
      excluded |= find_same_passages(batch["passage_ids"])
    if SAME_ANSWER in self.masked_negatives:
      same = find_same_answers(batch["answer_ids"])
      excluded |= _spread_to_positives(same, scores.shape[1])
    loss, metrics = in_batch_softmax_loss(
      scores, excluded=excluded, symmetric=self.symmetric
    )
    if self.distillation is None:
      return loss, metrics
    taught = distillation_loss(
      take_own_group(scores),
      batch["teacher_scores"],
      passage_mask.reshape(len(scores), -1),
      kind=self.distillation,
    )
    parts = {"contrastive_loss": loss, "distillation_loss": taught}
    weight = self.distillation_weight
    return (1 - weight) * loss + weight * taught, {**metrics, **parts}


def _check_name(name: str, known: tuple[str, ...], what: str) -> None:
  if name not in known:
    raise InputError(
      f"{what} names {name!r}", mend="choose of " + ", ".join(known)
    )


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


# ------------------------------------------------------------- false negatives


def find_same_passages(
  passage_ids: Int[Array, "queries group 2"],
) -> Bool[Array, "queries passages"]:
  """Marks passages with the id of a query's positive, itself among them.

  >>> ids = jnp.array([[[1, 1], [2, 2]], [[3, 3], [1, 1]]])
  >>> find_same_passages(ids).astype(int).tolist()
  [[1, 0, 0, 1], [0, 0, 1, 0]]
  """
  # [queries, group, 2] -> [passages, 2]
  ids = passage_ids.reshape(-1, 2)
  return jnp.all(passage_ids[:, 0, None] == ids[None], axis=-1)


def find_same_answers(
  answer_ids: Int[Array, "queries answers 2"],
) -> Bool[Array, "queries queries"]:
  """Marks pairs of queries that share an answer; zeros are no answer.

  >>> ids = jnp.array([[[7, 1], [0, 0]], [[5, 1], [7, 1]], [[0, 0], [0, 0]]])
  >>> find_same_answers(ids).astype(int).tolist()
  [[1, 1, 0], [1, 1, 0], [0, 0, 0]]
  """
  count = answer_ids.shape[1]
  is_answer = jnp.any(answer_ids != 0, axis=-1)
  found = jnp.zeros((len(answer_ids), len(answer_ids)), bool)
  # One answer with one at a time: no array of [queries, queries, answers ** 2].
  for i in range(count):
    for j in range(count):
      equal = jnp.all(answer_ids[:, None, i] == answer_ids[None, :, j], axis=-1)
      found |= equal & is_answer[:, None, i] & is_answer[None, :, j]
  return found


def _spread_to_positives(
  same: Bool[Array, "queries queries"], num_passages: int
) -> Bool[Array, "queries passages"]:
  """Marks the positives of the marked queries, not their hard negatives."""
  is_positive = jnp.arange(num_passages // len(same)) == 0
  # [queries, queries] -> [queries, queries, group] -> [queries, passages]
  return (same[:, :, None] & is_positive).reshape(len(same), num_passages)


# ---------------------------------------------------------------- distillation


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
    kind: "kl", the divergence of the softmax from the teacher's, or
      "margin_mse", the mean square by which the positive's lead over each hard
      negative differs from the teacher's (Hofstätter et al. 2020, section 3).

  The leads are 1 and 3, and the teacher's 2 and 3:

  >>> scores, teacher = jnp.array([[4.0, 3, 1]]), jnp.array([[4.0, 2, 1]])
  >>> mask = jnp.ones((1, 3), bool)
  >>> float(distillation_loss(scores, teacher, mask, kind="margin_mse"))
  0.5
  """
  teacher_scores = jnp.where(mask, teacher_scores, 0.0)
  if kind == "margin_mse":
    leads, wanted = (x[:, :1] - x[:, 1:] for x in (scores, teacher_scores))
    is_negative = mask[:, 1:]
    squares = jnp.where(is_negative, jnp.square(leads - wanted), 0.0)
    return jnp.sum(squares) / jnp.maximum(jnp.sum(is_negative), 1)
  lowest = jnp.finfo(scores.dtype).min
  log_probs, wanted = (
    jax.nn.log_softmax(jnp.where(mask, x, lowest))
    for x in (scores, teacher_scores)
  )
  terms = jnp.where(mask, jnp.exp(wanted) * (wanted - log_probs), 0.0)
  return jnp.mean(jnp.sum(terms, axis=1))
