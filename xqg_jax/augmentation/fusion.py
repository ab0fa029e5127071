"""Fusion of a passage's vector with those of its generated queries.

The augmented vector is linear in both, so whatever is mixed, vectors or
scores, is mixed by the same weights.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Num

from xqg_jax.augmentation.settings import Augmentation, Reduction
from xqg_jax.errors import InputError
from xqg_jax.store.store import EmbeddingStore, Group, StoreBlock

# ------------------------------------------------------------------ arithmetic


def get_weights(
  query_count: Num[np.ndarray, " passages"],
  *,
  reduction: Reduction,
  alpha: float,
) -> tuple[Float[np.ndarray, " passages"], Float[np.ndarray, " passages"]]:
  """Weights of each passage's own vector and of the sum of its queries.

  Because the augmented vector is linear in both, scores are mixed by the same
  weights: `score = passage_weight * q.p + query_weight * q.S`.

  >>> counts = np.array([4, 0])
  >>> [w.tolist() for w in get_weights(counts, reduction="sum", alpha=0.25)]
  [[0.75, 0.75], [0.25, 0.25]]
  >>> [w.tolist() for w in get_weights(counts, reduction="mean", alpha=0.5)]
  [[0.5, 1.0], [0.125, 0.0]]
  """
  if reduction == "sum":
    passage_weight = np.full(len(query_count), 1 - alpha, np.float32)
    return passage_weight, np.full(len(query_count), alpha, np.float32)
  has_queries = query_count > 0
  divisor = np.where(has_queries, query_count, 1)
  passage_weight = np.where(has_queries, 1 - alpha, 1.0)
  query_weight = np.where(has_queries, alpha / divisor, 0.0)
  return passage_weight.astype(np.float32), query_weight.astype(np.float32)


def augment_embeddings(
  passages: Float[np.ndarray, "passages dim"],
  query_sum: Float[np.ndarray, "passages dim"],
  query_count: Num[np.ndarray, " passages"],
  *,
  reduction: Reduction,
  alpha: float,
) -> Float[np.ndarray, "passages dim"]:
  """Fuses passages p with the sums S of their generated queries.

  sum: (1 - alpha) p + alpha S, equation 2 of Zhuang et al. 2023 (xQG4xDR).
  mean: (1 - alpha) p + alpha S / count; a passage without queries keeps p.

  >>> p, s = np.array([[1.0, 0.0]]), np.array([[0.0, 8.0]])
  >>> augment_embeddings(p, s, np.array([4]), reduction="mean", alpha=0.5)
  array([[0.5, 1. ]])
  """
  passage_weight, query_weight = get_weights(
    query_count, reduction=reduction, alpha=alpha
  )
  return passage_weight[:, None] * passages + query_weight[:, None] * query_sum


# ---------------------------------------------------------------------- groups


def group_weights(
  groups: Sequence[Group], augmentation: Augmentation
) -> Float[np.ndarray, " groups"]:
  """By how much an augmentation multiplies each of a store's query sums.

  Raises:
    InputError: the store has no query sums, or they are not kept apart as the
      augmentation needs it.

  >>> groups = [
  ...   {"language": c, "rank": r} for c in ("ar", "fi") for r in (1, 2)
  ... ]
  >>> group_weights(
  ...   groups,
  ...   Augmentation(
  ...     reduction="sum",
  ...     alpha=0.01,
  ...     num_queries=1,
  ...     language_weights=(("fi", 0.5),),
  ...   ),
  ... ).tolist()
  [1.0, 0.0, 0.5, 0.0]
  """
  if not groups:
    raise InputError(
      "the embeddings were made without generated queries",
      mend="encode again with GENERATED_QUERIES",
    )
  weights = np.ones(len(groups), np.float32)
  if augmentation.languages is not None:
    _check_languages(groups, augmentation.languages, "languages")
    weights *= [group["language"] in augmentation.languages for group in groups]
  if by_language := dict(augmentation.language_weights):
    _check_languages(groups, by_language, "language_weights")
    weights *= [by_language.get(group["language"], 1.0) for group in groups]
  if augmentation.num_queries is not None:
    ranks = _known_values(groups, "rank", "num_queries")
    if augmentation.num_queries > max(ranks):
      raise InputError(
        f"num_queries is {augmentation.num_queries}, but the embeddings have "
        f"at most {max(ranks)} a language",
        mend="choose fewer",
      )
    weights *= [group["rank"] <= augmentation.num_queries for group in groups]
  return weights


def _check_languages(
  groups: Sequence[Group], languages: Sequence[str] | Mapping, asked: str
) -> None:
  known = _known_values(groups, "language", asked)
  for language in languages:
    if language not in known:
      raise InputError(
        f"no generated queries in the language {language!r}",
        mend=f"the embeddings have {', '.join(sorted(known))}",
      )


def _known_values(groups: Sequence[Group], key: str, asked: str) -> set[Any]:
  known = {group[key] for group in groups}
  if None in known:
    kept = {k for k in ("language", "rank") if groups[0][k] is not None}
    needed = tuple(k for k in ("language", "rank") if k in kept | {key})
    raise InputError(
      f"{asked} cannot be chosen: the embeddings keep one sum per passage over "
      f"all of them",
      mend=f"encode again with group_queries_by={needed}",
    )
  return known


def sum_groups(
  block: StoreBlock, weights: Float[np.ndarray, " groups"]
) -> tuple[Float[np.ndarray, "rows dim"], Float[np.ndarray, " rows"]]:
  """The weighted sum of a block's query sums, and of its query counts.

  Raises:
    ValueError: the block was read without its queries.
  """
  if block.query_sums is None or block.query_counts is None:
    raise ValueError("the block was read without its queries")
  used = weights != 0
  sums, factors = block.query_sums[:, used], weights[used]
  if (factors != 1).any():
    sums = sums * factors[:, None]
  # [rows, groups, dim] -> [rows, dim]
  return sums.sum(axis=1), block.query_counts[:, used] @ factors


# ----------------------------------------------------------------------- means


@dataclasses.dataclass(frozen=True)
class Means:
  """The mean vectors of a store: of its passages, and of its queries."""

  passage: Float[np.ndarray, " dim"]
  query: Float[np.ndarray, " dim"]

  def remove(
    self,
    passages: Float[np.ndarray, "rows dim"],
    query_sum: Float[np.ndarray, "rows dim"],
    query_count: Float[np.ndarray, " rows"],
  ) -> tuple[Float[np.ndarray, "rows dim"], Float[np.ndarray, "rows dim"]]:
    """Subtracts them from passages, and from each query in the sums."""
    return passages - self.passage, query_sum - query_count[
      :, None
    ] * self.query


def measure_means(
  store: EmbeddingStore, weights: Float[np.ndarray, " groups"]
) -> Means:
  """Reads a store once for its mean vectors, added up in float64."""
  passages, queries = (np.zeros(store.dim) for _ in range(2))
  num_queries = 0.0
  for block in store.blocks(65_536):
    sums, counts = sum_groups(block, weights)
    passages += block.passages.sum(axis=0, dtype=np.float64)
    queries += sums.sum(axis=0, dtype=np.float64)
    num_queries += float(counts.sum(dtype=np.float64))
  means = passages / store.num_passages, queries / (num_queries or 1.0)
  return Means(*(mean.astype(np.float32) for mean in means))
