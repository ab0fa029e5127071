"""Answers of the search page: hits of both variants, with their texts."""

import dataclasses
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from xqg_jax.data.passage_lookup import ShownPassage
from xqg_jax.serving.live_search import Hit, LiveSearch, Products, rank_passages

# Products of questions asked before, so that alpha moves without encoding.
_CACHE_BYTES = 256 << 20


@dataclasses.dataclass(frozen=True)
class SearchRequest:
  """A question; alpha None stands for the view's own."""

  question: str
  alpha: float | None
  k: int


class SearchService:
  """Answers requests from one thread."""

  def __init__(self, live: LiveSearch, shown: Mapping[str, ShownPassage]):
    """Takes an open search and the texts of all its passages."""
    self._live = live
    self._shown = shown
    self._products: OrderedDict[str, Products] = OrderedDict()

  def describe(self) -> dict[str, Any]:
    """What is searched, and how."""
    augmentation = self._live.augmentation
    return {
      "num_passages": len(self._live.passage_ids),
      "dim": self._live.index.dim,
      "index_kind": self._live.index.kind,
      "is_exact": self._live.is_exact,
      "index_fingerprint": self._live.index.fingerprint,
      "encoder_fingerprint": self._live.index.encoder_fingerprint,
      "reduction": augmentation and augmentation.reduction,
      "alpha": augmentation and augmentation.alpha,
    }

  def answer_batch(
    self, requests: Sequence[SearchRequest]
  ) -> list[dict[str, Any]]:
    """Answers requests in their order; encodes what was not asked before."""
    started = time.perf_counter()
    known = {
      request.question: self._products[request.question]
      for request in requests
      if request.question in self._products
    }
    new = list(dict.fromkeys(r.question for r in requests).keys() - known)
    if new:
      known |= zip(new, self._live.find(new), strict=True)
    for question, products in known.items():
      self._keep(question, products)
    return [
      {
        **self._answer(request, known[request.question]),
        "is_known": request.question not in new,
        "milliseconds": round(1000 * (time.perf_counter() - started), 2),
      }
      for request in requests
    ]

  def _keep(self, question: str, products: Products) -> None:
    self._products[question] = products
    self._products.move_to_end(question)
    size = sum(kept.num_bytes for kept in self._products.values())
    while size > _CACHE_BYTES and len(self._products) > 1:
      size -= self._products.popitem(last=False)[1].num_bytes

  def _answer(
    self, request: SearchRequest, products: Products
  ) -> dict[str, Any]:
    baseline = rank_passages(products, alpha=None, k=request.k)
    alpha, augmented = None, None
    if self._live.augmentation is not None:
      alpha = request.alpha
      if alpha is None:
        alpha = self._live.augmentation.alpha
      augmented = rank_passages(products, alpha=alpha, k=request.k)
    ids = self._live.passage_ids
    found = {ids[hit.row] for hit in (*baseline, *(augmented or ()))}
    return {
      "question": request.question,
      "alpha": alpha,
      "mean_score": products.mean_score,
      "baseline": self._to_json(baseline),
      "augmented": augmented and self._to_json(augmented),
      "passages": {i: _to_text(self._shown[i]) for i in sorted(found)},
    }

  def _to_json(self, hits: Sequence[Hit]) -> list[dict[str, Any]]:
    return [
      {
        "passage_id": self._live.passage_ids[hit.row],
        "score": hit.score,
        "passage_score": hit.passage_score,
        "query_score": hit.query_score,
      }
      for hit in hits
    ]


def _to_text(shown: ShownPassage) -> dict[str, Any]:
  return {
    "title": shown.passage.title,
    "text": shown.passage.text,
    "queries": {code: list(texts) for code, texts in shown.queries.items()},
  }
