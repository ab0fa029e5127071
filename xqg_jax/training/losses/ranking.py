"""Training objective of a dual encoder: its losses, masked and weighed.

The losses, a file each, are pure functions of arrays. Under `jax.jit` with a
sharded batch they are global: a query's in-batch negatives are the passages of
all devices.
"""

import dataclasses
from collections.abc import Iterable, Mapping

from jaxtyping import Array, Bool, Float

from xqg_jax.errors import InputError
from xqg_jax.training.losses.distillation import (
  DISTILLATIONS,
  distillation_loss,
  take_own_group,
)
from xqg_jax.training.losses.false_negatives import MASKS, Mask
from xqg_jax.training.losses.softmax import (
  Losses,
  compute_scores,
  in_batch_softmax_loss,
)


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
      _check_name(name, MASKS, "masked_negatives")
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
    masks = [mask.feature for mask in self._masks]
    return (*masks, *["teacher_scores"] * (self.distillation is not None))

  @property
  def _masks(self) -> list[Mask]:
    return [m for name, m in MASKS.items() if name in self.masked_negatives]

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
    for mask in self._masks:
      excluded |= mask.find(batch[mask.feature], scores.shape[1])
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


def _check_name(name: str, known: Iterable[str], what: str) -> None:
  if name not in known:
    raise InputError(
      f"{what} names {name!r}", mend="choose of " + ", ".join(known)
    )
