"""Products of questions and passages, ranked for any alpha."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int


class Products(NamedTuple):
  """What a question and the passages give; no alpha is in it yet.

  Attributes:
    rows: the passages scored, ascending.
    passage_scores: q.p.
    query_scores: q.S, or None without generated queries.
    mean_score: q.m.
    offset: the same of o, the mean of the question's language; None without
      means.
    language: that o is of; None: of all languages.
  """

  rows: Int[np.ndarray, " candidates"]
  passage_scores: Float32[np.ndarray, " candidates"]
  query_scores: Float32[np.ndarray, " candidates"] | None
  mean_score: float
  offset: "Products | None" = None
  language: str | None = None

  def center(self, strength: float) -> "Products":
    """The products of the centred question.

    >>> one = np.ones(2, np.float32)
    >>> offset = Products(np.arange(2), one, None, 0.5)
    >>> found = Products(np.arange(2), 3 * one, None, 1.0, offset).center(2)
    >>> found.passage_scores.tolist(), found.mean_score
    ([1.0, 1.0], 0.0)
    """
    if not strength or self.offset is None:
      return self
    weight, queries = np.float32(strength), self.query_scores
    if queries is not None and self.offset.query_scores is not None:
      queries = queries - weight * self.offset.query_scores
    return self._replace(
      passage_scores=self.passage_scores - weight * self.offset.passage_scores,
      query_scores=queries,
      mean_score=self.mean_score - strength * self.offset.mean_score,
    )

  @property
  def num_bytes(self) -> int:
    """Memory that it takes, without what questions share."""
    return sum(part.nbytes for part in self[:3] if part is not None)


class Hit(NamedTuple):
  """One passage found: its row, its score, and the products behind it."""

  row: int
  score: float
  passage_score: float
  query_score: float | None


def rank_passages(
  products: Products, *, alpha: float | None, k: int
) -> list[Hit]:
  """The k best passages, best first; among equals the lower row.

  Args:
    products: of one question.
    alpha: weight of the queries; None: the passages as they are.
    k: how many; all of them when there are fewer.

  >>> found = Products(
  ...   np.array([3, 5, 9]),
  ...   np.array([1.0, 0.5, 0.5], np.float32),
  ...   np.array([0.0, 4.0, 0.5], np.float32),
  ...   0.0,
  ... )
  >>> [(hit.row, hit.score) for hit in rank_passages(found, alpha=None, k=2)]
  [(3, 1.0), (5, 0.5)]
  >>> [(hit.row, hit.score) for hit in rank_passages(found, alpha=0.5, k=2)]
  [(5, 2.25), (3, 0.5)]
  """
  scores = products.passage_scores
  if alpha is not None:
    if products.query_scores is None:
      raise ValueError("no scores of queries, which alpha weighs")
    passage_weight, query_weight = np.float32(1 - alpha), np.float32(alpha)
    scores = passage_weight * (scores - np.float32(products.mean_score))
    scores = scores + query_weight * products.query_scores
  return [
    Hit(
      int(products.rows[at]),
      float(scores[at]),
      float(products.passage_scores[at]),
      None
      if products.query_scores is None
      else float(products.query_scores[at]),
    )
    for at in _best_places(scores, k)
  ]


def _best_places(
  scores: Float32[np.ndarray, " candidates"], k: int
) -> Int[np.ndarray, " best"]:
  k = min(k, len(scores))
  threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
  places = np.flatnonzero(scores >= threshold)
  return places[np.lexsort((places, -scores[places]))][:k]
