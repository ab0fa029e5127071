"""Rules that choose hard negatives among retrieved passages."""

import collections
import dataclasses
import functools
from collections.abc import Sequence

from xqg_jax.data.answers import contains_answer
from xqg_jax.data.passages import Passage
from xqg_jax.data.training_pairs import (
  COMMON_ANSWERS,
  TrainingPair,
)
from xqg_jax.errors import InputError

Candidate = tuple[Passage, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class NegativeRules:
  """Which of the passages found for a query are hard negatives.

  Attributes:
    num_negatives: of a pair, at most.
    max_overlap: a passage that has so much in common with a positive counts as
      its duplicate: shared words over all words of both.
    margin: negatives score at least so much less than the positive, or than
      its best duplicate where it was not found; None: no margin.
    max_score_ratio: negatives score at most so much of the positive's score,
      such as 0.95 (Moreira et al. 2024, "NV-Retriever"); None: any.
  """

  num_negatives: int = 30
  max_overlap: float = 0.9
  margin: float | None = None
  max_score_ratio: float | None = None

  def __post_init__(self):
    for name, low, high in (
      ("num_negatives", 1, float("inf")),
      ("max_overlap", 0, 1),
      ("margin", 0, float("inf")),
      ("max_score_ratio", 1e-6, 1),
    ):
      value = getattr(self, name)
      if value is not None and not low <= value <= high:
        raise InputError(f"{name} is {value}", mend=f"use {low} to {high}")

  def choose(
    self, pair: TrainingPair, found: Sequence[Candidate]
  ) -> tuple[list[Passage], collections.Counter[str]]:
    """Takes the best passages that break no rule.

    A positive that was not found scores less than all that were; with a margin
    or a ratio its pair has no negatives then, because each might answer.

    Args:
      pair: whose positives and answers count.
      found: passages with their scores, best first.

    Returns:
      The negatives, and how many were left out as `positive`, `duplicate`,
      `answer` or `score`.
    """
    signs = [self._find_sign(pair, passage) for passage, _ in found]
    # The best first, of each kind.
    right = dict(
      reversed([(s, score) for (_, score), s in zip(found, signs, strict=True)])
    )
    limit = self._get_limit(right.get("positive", right.get("duplicate")))
    negatives, left_out = [], collections.Counter()
    for (passage, score), sign in zip(found, signs, strict=True):
      if len(negatives) == self.num_negatives:
        break
      sign = sign or (None if score <= limit else "score")
      if sign:
        left_out[sign] += 1
      else:
        negatives.append(passage)
    return negatives, left_out

  def _get_limit(self, positive_score: float | None) -> float:
    """The largest score of a negative."""
    limits = [float("inf")]
    if self.margin is not None or self.max_score_ratio is not None:
      limits.append(float("-inf") if positive_score is None else positive_score)
    if self.margin is not None:
      limits.append(limits[1] - self.margin)
    if self.max_score_ratio is not None:
      limits.append(limits[1] * self.max_score_ratio)
    return min(limits)

  def _find_sign(self, pair: TrainingPair, passage: Passage) -> str | None:
    if any(passage.passage_id == p.passage_id for p in pair.positives):
      return "positive"
    words = _to_words(passage.text)
    for positive in pair.positives:
      if overlap(words, _to_words(positive.text)) >= self.max_overlap:
        return "duplicate"
    answers = [
      a for a in pair.answers if a.strip().lower() not in COMMON_ANSWERS
    ]
    is_answer = bool(answers) and contains_answer(passage.text, answers)
    return "answer" if is_answer else None


@functools.lru_cache(maxsize=4096)
def _to_words(text: str) -> frozenset[str]:
  return frozenset(text.lower().split())


def overlap(words: frozenset[str], others: frozenset[str]) -> float:
  """Shared words over all words (Jaccard); 1 for two empty texts.

  >>> overlap(frozenset("abc"), frozenset("bcd"))
  0.5
  """
  everything = words | others
  return len(words & others) / len(everything) if everything else 1.0
