"""Answers of the search page: hits of both variants, with their texts."""

import dataclasses
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from xqg_jax.data.passage_lookup import ShownPassage
from xqg_jax.serving.live_search import LiveSearch
from xqg_jax.serving.products import Hit, Products, rank_passages

# Products of questions asked before, so that alpha moves without encoding.
_CACHE_BYTES = 256 << 20

Key = tuple[str, str | None]


@dataclasses.dataclass(frozen=True)
class SearchRequest:
  """A question; None stands for what the server was started with.

  Attributes:
    question: its text.
    alpha: weight of the generated queries.
    k: hits of each variant.
    center: strength of centring.
    language: code of the question's; None: to be identified.
  """

  question: str
  alpha: float | None
  k: int
  center: float | None = None
  language: str | None = None

  @property
  def key(self) -> Key:
    """What the products depend on."""
    return self.question, self.language


class SearchService:
  """Answers requests from one thread."""

  def __init__(self, live: LiveSearch, shown: Mapping[str, ShownPassage]):
    """Takes an open search and the texts of all its passages."""
    self._live = live
    self._shown = shown
    self._products: OrderedDict[Key, Products] = OrderedDict()

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
      "center": self._center(None),
      "center_by": self._live.centering.by,
      "languages": self._list_languages(),
    }

  def _center(self, asked: float | None) -> float | None:
    """The strength asked for, or the server's own; None without means."""
    if self._live.centering.means is None:
      return None
    return self._live.centering.strength if asked is None else asked

  def _list_languages(self) -> list[str]:
    means = self._live.centering.means
    return [] if means is None else list(means.languages)

  def answer_batch(
    self, requests: Sequence[SearchRequest]
  ) -> list[dict[str, Any]]:
    """Answers requests in their order; encodes what was not asked before."""
    started = time.perf_counter()
    known = {
      request.key: self._products[request.key]
      for request in requests
      if request.key in self._products
    }
    new = list(dict.fromkeys(r.key for r in requests).keys() - known)
    if new:
      questions, languages = zip(*new, strict=True)
      known |= zip(new, self._live.find(questions, languages), strict=True)
    for key, products in known.items():
      self._keep(key, products)
    return [
      {
        **self._answer(request, known[request.key]),
        "is_known": request.key not in new,
        "milliseconds": round(1000 * (time.perf_counter() - started), 2),
      }
      for request in requests
    ]

  def _keep(self, key: Key, products: Products) -> None:
    self._products[key] = products
    self._products.move_to_end(key)
    size = sum(kept.num_bytes for kept in self._products.values())
    while size > _CACHE_BYTES and len(self._products) > 1:
      size -= self._products.popitem(last=False)[1].num_bytes

  def _answer(
    self, request: SearchRequest, products: Products
  ) -> dict[str, Any]:
    center = self._center(request.center)
    products = products.center(center or 0.0)
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
      "center": center,
      "language": products.language,
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
