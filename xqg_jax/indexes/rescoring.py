"""Fusion beyond one sum: candidates scored again with queries by language.

A store that keeps one sum a language can weigh, for each question, the queries
of its own language, or the language whose queries fit it best. That is not
linear in the question, so no single vector a passage can stand for it: the
first stage proposes, and what it proposes is scored exactly.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, Int

from xqg_jax.errors import InputError
from xqg_jax.indexes.neighbors import Neighbors
from xqg_jax.store.store import EmbeddingStore, Group, StoreBlock

FusionKind = Literal["sum", "language", "best"]

_BLOCK_SIZE = 8192
# Pairs of question and candidate whose vectors are held at once.
_NUM_PAIRS = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class FusionSettings:
  """How candidates are scored again.

  Attributes:
    kind: "sum" leaves the first stage's scores; "language" adds the mean of
      the passage's queries in the question's language, "best" that of the
      language whose mean scores highest.
    alpha: its weight; the passage's own is 1 - alpha.
  """

  kind: FusionKind = "sum"
  alpha: float = 0.1

  def __post_init__(self):
    if self.kind not in ("sum", "language", "best"):
      raise InputError(
        f"unknown fusion {self.kind!r}", mend='use "sum", "language" or "best"'
      )
    if not (math.isfinite(self.alpha) and 0 <= self.alpha <= 1):
      raise InputError(
        f"alpha is {self.alpha}", mend="choose it between 0 and 1"
      )

  def to_json(self) -> dict[str, Any] | None:
    """Its settings; None where nothing is scored again."""
    return None if self.kind == "sum" else dataclasses.asdict(self)


SUM = FusionSettings()


def check_groups(groups: Sequence[Group]) -> list[str]:
  """The languages of a store's query sums, in their order.

  Raises:
    InputError: they are not kept apart by language alone.
  """
  languages = [group["language"] for group in groups]
  if not languages or None in languages or len(set(languages)) < len(groups):
    raise InputError(
      "the store does not keep one sum a language",
      mend='encode with GROUP_QUERIES_BY=("language",)',
    )
  return languages


def rescore(
  found: Neighbors,
  queries: Float32[np.ndarray, "queries dim"],
  languages: Sequence[str | None],
  store: EmbeddingStore,
  settings: FusionSettings,
) -> Neighbors:
  """Scores candidates again, and orders them anew.

  The store is read once. A passage without the queries asked for counts by its
  own vector alone.

  Args:
    found: (scores, rows) of the first stage; row -1 where there is none.
    queries: question vectors, as they were searched with.
    languages: code of each question; None, or one that the store lacks: the
      mean of all of a passage's queries.
    store: the passages, with one query sum a language.
    settings: kind and alpha.

  Returns:
    (scores, rows), best first; among equals the lower row.

  Raises:
    InputError: a store without a sum for each language.
  """
  if settings.kind == "sum":
    return found
  codes = check_groups(store.groups)
  rows = found[1]
  scores = np.full(rows.shape, -np.inf, np.float32)
  chosen = np.array(
    [codes.index(c) if c in codes else -1 for c in languages], np.int64
  )
  for block in store.blocks(_BLOCK_SIZE):
    places = np.argwhere(
      (rows >= block.start) & (rows < block.start + len(block.passages))
    )
    for start in range(0, len(places), _NUM_PAIRS):
      question, place = places[start : start + _NUM_PAIRS].T
      scores[question, place] = _score(
        block,
        rows[question, place] - block.start,
        queries[question],
        chosen[question],
        settings,
      )
  order = np.lexsort((rows, -scores), axis=1)
  return (
    np.take_along_axis(scores, order, axis=1),
    np.take_along_axis(rows, order, axis=1),
  )


def _score(
  block: StoreBlock,
  rows: Int[np.ndarray, " pairs"],
  queries: Float32[np.ndarray, "pairs dim"],
  chosen: Int[np.ndarray, " pairs"],
  settings: FusionSettings,
) -> Float32[np.ndarray, " pairs"]:
  if block.query_sums is None or block.query_counts is None:
    raise ValueError("the block was read without its queries")
  alone = np.einsum("nd,nd->n", queries, block.passages[rows])
  sums, counts = block.query_sums[rows], block.query_counts[rows]
  # [pairs, languages]
  products = np.einsum("nd,ngd->ng", queries, sums)
  means = products / np.maximum(counts, 1)
  if settings.kind == "best":
    added = np.where(counts > 0, means, -np.inf).max(axis=1)
  else:
    total = counts.sum(axis=1)
    of_all = np.where(
      total > 0, products.sum(axis=1) / np.maximum(total, 1), -np.inf
    )
    own = np.arange(len(rows)), np.maximum(chosen, 0)
    of_own = np.where(counts[own] > 0, means[own], -np.inf)
    added = np.where(chosen < 0, of_all, of_own)
  added = np.where(np.isfinite(added), added, alone)
  scores = (1 - settings.alpha) * alone + settings.alpha * added
  return scores.astype(np.float32)
