"""Settings of an augmentation: reduction, alpha, languages, query counts."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, NotRequired, TypedDict

from xqg_jax.errors import InputError
from xqg_jax.io.typed_json import Positive

Reduction = Literal["sum", "mean"]


class AugmentationRecord(TypedDict):
  """An augmentation as files note it."""

  reduction: Reduction
  alpha: float
  languages: list[str] | None
  num_queries: Positive | None
  language_weights: NotRequired[list[tuple[str, float]]]
  remove_mean: NotRequired[bool]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
  """How generated queries go into a passage's embedding.

  Attributes:
    reduction: "sum" (the paper's) adds up a passage's queries, "mean" averages
      them, which suits collections where their number differs.
    alpha: weight of the sum or the mean; the passage's own is 1 - alpha.
    languages: use the queries of these languages only; None = all.
    num_queries: use the first so many queries a language; None = all.
    language_weights: (language, weight) pairs; a query of another language
      weighs 1. A mean is weighted, too.
    remove_mean: subtract the mean vector of all passages from each passage and
      that of all generated queries from each query, so that a sum favours no
      passage for the number of its queries.
  """

  reduction: Reduction
  alpha: float
  languages: tuple[str, ...] | None = None
  num_queries: int | None = None
  language_weights: tuple[tuple[str, float], ...] = ()
  remove_mean: bool = False

  def __post_init__(self):
    if self.reduction not in ("sum", "mean"):
      raise InputError(
        f"unknown reduction {self.reduction!r}", mend='use "sum" or "mean"'
      )
    if not (math.isfinite(self.alpha) and 0 <= self.alpha <= 1):
      raise InputError(
        f"alpha is {self.alpha}", mend="choose it between 0 and 1"
      )
    if self.num_queries is not None and self.num_queries < 1:
      raise InputError(
        f"num_queries is {self.num_queries}", mend="use at least 1"
      )
    for language, weight in self.language_weights:
      if not (math.isfinite(weight) and weight >= 0):
        raise InputError(
          f"the weight of {language!r} is {weight}", mend="use 0 or more"
        )

  def to_json(self) -> dict[str, Any]:
    """Settings as JSON; those added after format 1 only where they are set.

    >>> Augmentation(reduction="sum", alpha=0.5).to_json()["alpha"]
    0.5
    """
    settings = dataclasses.asdict(self)
    for name in ("language_weights", "remove_mean"):
      if not settings[name]:
        del settings[name]
    return settings

  @classmethod
  def from_json(cls, settings: Mapping[str, Any]) -> "Augmentation":
    """Reads the settings that `to_json` wrote; lists become tuples."""
    languages = settings["languages"]
    weights = settings.get("language_weights", ())
    return cls(
      reduction=settings["reduction"],
      alpha=settings["alpha"],
      languages=None if languages is None else tuple(languages),
      num_queries=settings["num_queries"],
      language_weights=tuple((code, weight) for code, weight in weights),
      remove_mean=settings.get("remove_mean", False),
    )
