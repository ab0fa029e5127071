"""Augmentation: passage embeddings moved towards their generated queries.

The vectors stay as they were encoded. A view says which store, which
reduction and which alpha; the augmented vectors are made while they are read.
"""

import dataclasses
import functools
import math
import os
import pathlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from xqg_jax.errors import InputError
from xqg_jax.files import claim_output_dir, fingerprint, read_json, write_json
from xqg_jax.store import EmbeddingStore, Group, StoreBlock, open_store

FORMAT_VERSION = 1
VIEW_FILE = "view.json"

Reduction = Literal["sum", "mean"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
  """How generated queries go into a passage's embedding.

  Attributes:
    reduction: "sum" (the paper's) adds up a passage's queries, "mean" averages
      them, which suits collections where their number differs.
    alpha: weight of the sum or the mean; the passage's own is 1 - alpha.
    languages: use the queries of these languages only; None = all.
    num_queries: use the first so many queries a language; None = all.
  """

  reduction: Reduction
  alpha: float
  languages: tuple[str, ...] | None = None
  num_queries: int | None = None

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


# ------------------------------------------------------------------ arithmetic


def get_weights(
  query_count: Int[np.ndarray, " passages"],
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
  passage_weight = np.where(has_queries, 1 - alpha, 1.0)
  query_weight = np.where(has_queries, alpha / np.maximum(query_count, 1), 0.0)
  return passage_weight.astype(np.float32), query_weight.astype(np.float32)


def augment_embeddings(
  passages: Float[np.ndarray, "passages dim"],
  query_sum: Float[np.ndarray, "passages dim"],
  query_count: Int[np.ndarray, " passages"],
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


def group_mask(
  groups: Sequence[Group], augmentation: Augmentation
) -> Bool[np.ndarray, " groups"]:
  """Which of a store's query sums an augmentation adds up.

  Raises:
    InputError: the store has no query sums, or they are not kept apart as the
      augmentation needs it.

  >>> groups = [
  ...   {"language": c, "rank": r} for c in ("ar", "fi") for r in (1, 2)
  ... ]
  >>> group_mask(
  ...   groups, Augmentation(reduction="sum", alpha=0.01, num_queries=1)
  ... ).tolist()
  [True, False, True, False]
  """
  if not groups:
    raise InputError(
      "the embeddings were made without generated queries",
      mend="encode again with GENERATED_QUERIES",
    )
  mask = np.ones(len(groups), bool)
  if augmentation.languages is not None:
    known = _known_values(groups, "language", "languages")
    for language in augmentation.languages:
      if language not in known:
        raise InputError(
          f"no generated queries in the language {language!r}",
          mend=f"the embeddings have {', '.join(sorted(known))}",
        )
    mask &= [group["language"] in augmentation.languages for group in groups]
  if augmentation.num_queries is not None:
    ranks = _known_values(groups, "rank", "num_queries")
    if augmentation.num_queries > max(ranks):
      raise InputError(
        f"num_queries is {augmentation.num_queries}, but the embeddings have "
        f"at most {max(ranks)} a language",
        mend="choose fewer",
      )
    mask &= [group["rank"] <= augmentation.num_queries for group in groups]
  return mask


def _known_values(groups: Sequence[Group], key: str, asked: str) -> set[Any]:
  known = {group[key] for group in groups}
  if None in known:
    needed = ("language",) if key == "language" else ("language", "rank")
    raise InputError(
      f"{asked} cannot be chosen: the embeddings keep one sum per passage over "
      f"all of them",
      mend=f"encode again with group_queries_by={needed}",
    )
  return known


# ----------------------------------------------------------------------- views


@dataclasses.dataclass(frozen=True)
class AugmentedView:
  """A store seen through an augmentation, or as it is when that is None."""

  store: EmbeddingStore
  augmentation: Augmentation | None = None

  @property
  def num_passages(self) -> int:
    """Number of passages."""
    return self.store.num_passages

  @property
  def dim(self) -> int:
    """Dimensions of a vector."""
    return self.store.dim

  @property
  def passage_ids(self) -> list[str]:
    """The passages' ids in order of rows."""
    return self.store.passage_ids

  @functools.cached_property
  def fingerprint(self) -> str:
    """SHA-256 that changes with the store and with the augmentation."""
    if self.augmentation is None:
      return self.store.fingerprint
    return fingerprint(
      {
        "store": self.store.fingerprint,
        "augmentation": dataclasses.asdict(self.augmentation),
      }
    )

  def blocks(
    self, block_size: int
  ) -> Iterator[tuple[int, Float[np.ndarray, "rows dim"]]]:
    """Streams (first row, vectors in float32), `block_size` rows at a time.

    Raises:
      InputError: a damaged store, or one without what the augmentation needs.
    """
    if self.augmentation is None:
      for block in self.store.blocks(block_size, use_queries=False):
        yield block.start, block.passages
      return
    mask = group_mask(self.store.groups, self.augmentation)
    for block in self.store.blocks(block_size):
      yield block.start, _augment_block(block, mask, self.augmentation)


def _augment_block(
  block: StoreBlock,
  mask: Bool[np.ndarray, " groups"],
  augmentation: Augmentation,
) -> Float[np.ndarray, "rows dim"]:
  return augment_embeddings(
    block.passages,
    # [rows, groups, dim] -> [rows, dim]
    block.query_sums[:, mask].sum(axis=1),
    block.query_counts[:, mask].sum(axis=1),
    reduction=augmentation.reduction,
    alpha=augmentation.alpha,
  )


def augment(
  *,
  store: str | os.PathLike,
  output_dir: str | os.PathLike,
  reduction: Reduction = "sum",
  alpha: float = 0.01,
  languages: Sequence[str] | None = None,
  num_queries: int | None = None,
) -> AugmentedView:
  """Writes a view of a store; no vectors are copied.

  Warns when passages differ in their number of queries and `reduction` is
  "sum".

  Args:
    store: folder of the embedding store.
    output_dir: folder of the view.
    reduction: "sum" or "mean".
    alpha: weight of the sum or the mean.
    languages: use these languages' queries only; needs a store encoded with
      `group_queries_by=("language",)`.
    num_queries: use the first so many a language; needs a store encoded with
      `group_queries_by=("language", "rank")`.

  Returns:
    The view.

  Raises:
    InputError: no such store, one that lacks what is asked for, or an output
      folder that holds something else.
  """
  opened = open_store(store)
  augmentation = Augmentation(
    reduction=reduction,
    alpha=alpha,
    languages=None if languages is None else tuple(languages),
    num_queries=num_queries,
  )
  mask = group_mask(opened.groups, augmentation)
  if reduction == "sum":
    _warn_of_uneven_counts(opened, mask)
  settings = dataclasses.asdict(augmentation)
  folder = claim_output_dir(
    output_dir,
    stage="augment",
    arguments={"store_fingerprint": opened.fingerprint, **settings},
  )
  view = {
    "format_version": FORMAT_VERSION,
    "store": os.path.relpath(opened.path.resolve(), folder.resolve()),
    "store_fingerprint": opened.fingerprint,
    "augmentation": settings,
  }
  write_json(folder / VIEW_FILE, view)
  return AugmentedView(opened, augmentation)


def _warn_of_uneven_counts(
  store: EmbeddingStore, mask: Bool[np.ndarray, " groups"]
) -> None:
  counts = [c[:, mask].sum(axis=1) for c in store.query_counts()]
  fewest = min(int(c.min()) for c in counts)
  most = max(int(c.max()) for c in counts)
  if fewest != most:
    warnings.warn(
      f"passages have {fewest} to {most} queries; a plain sum ranks passages "
      'by their number of queries; use reduction="mean"',
      stacklevel=3,
    )


def open_view(path: str | os.PathLike) -> AugmentedView:
  """Opens a view, or a store, which is a view without augmentation.

  Raises:
    InputError: neither of them there, or the view's store has changed.
  """
  path = pathlib.Path(path)
  if not (path / VIEW_FILE).exists():
    return AugmentedView(open_store(path))
  view = read_json(path / VIEW_FILE)
  if view.get("format_version") != FORMAT_VERSION:
    raise InputError(
      f"not a view of format version {FORMAT_VERSION}",
      where=path / VIEW_FILE,
      mend="run augment again with a new OUTPUT_DIR",
    )
  # Relative to the view, so that both folders can be moved together.
  store = open_store((path.resolve() / view["store"]).resolve())
  if store.fingerprint != view["store_fingerprint"]:
    raise InputError(
      f"the store {store.path} has changed since the view was made",
      where=path,
      mend="run augment again with a new OUTPUT_DIR",
    )
  return AugmentedView(store, _read_augmentation(view["augmentation"]))


def _read_augmentation(settings: Mapping[str, Any]) -> Augmentation:
  languages = settings["languages"]
  return Augmentation(
    reduction=settings["reduction"],
    alpha=settings["alpha"],
    languages=None if languages is None else tuple(languages),
    num_queries=settings["num_queries"],
  )
