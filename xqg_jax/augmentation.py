"""Augmentation: passage embeddings moved towards their generated queries.

The vectors stay as they were encoded. A view says which store, which
reduction and which alpha; the augmented vectors are made while they are read.
"""

import dataclasses
import functools
import os
import pathlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from xqg_jax.errors import InputError
from xqg_jax.files import claim_output_dir, fingerprint, read_json, write_json
from xqg_jax.fusion import (
  Augmentation,
  Means,
  Reduction,
  augment_embeddings,
  group_weights,
  measure_means,
  sum_groups,
)
from xqg_jax.locations import Location, is_url
from xqg_jax.materializing import materialize_vectors
from xqg_jax.store import EmbeddingStore, StoreBlock, open_store

FORMAT_VERSION = 1
VIEW_FILE = "view.json"


# ----------------------------------------------------------------------- views


@dataclasses.dataclass(frozen=True)
class AugmentedView:
  """A store seen through an augmentation, or as it is when that is None.

  Attributes:
    store: the embeddings.
    augmentation: what is made of them while they are read.
    known_means: the store's mean vectors, where they were measured already.
  """

  store: EmbeddingStore
  augmentation: Augmentation | None = None
  known_means: Means | None = None

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
        "augmentation": self.augmentation.to_json(),
      }
    )

  @functools.cached_property
  def means(self) -> Means | None:
    """The mean vectors that the augmentation removes; None if it does not."""
    if self.augmentation is None or not self.augmentation.remove_mean:
      return None
    weights = group_weights(self.store.groups, self.augmentation)
    return self.known_means or measure_means(self.store, weights)

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
    weights = group_weights(self.store.groups, self.augmentation)
    for block in self.store.blocks(block_size):
      yield block.start, self._augment(block, weights)

  def _augment(
    self, block: StoreBlock, weights: Float[np.ndarray, " groups"]
  ) -> Float[np.ndarray, "rows dim"]:
    passages, (query_sum, counts) = block.passages, sum_groups(block, weights)
    if self.means is not None:
      passages, query_sum = self.means.remove(passages, query_sum, counts)
    return augment_embeddings(
      passages,
      query_sum,
      counts,
      reduction=self.augmentation.reduction,
      alpha=self.augmentation.alpha,
    )


def augment(
  *,
  store: str | os.PathLike,
  output_dir: str | os.PathLike,
  reduction: Reduction = "sum",
  alpha: float = 0.01,
  languages: Sequence[str] | None = None,
  num_queries: int | None = None,
  language_weights: Mapping[str, float] | None = None,
  remove_mean: bool = False,
  materialize: bool = False,
) -> AugmentedView:
  """Writes a view of a store; no vectors are copied unless asked for.

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
      `group_queries_by=("rank",)`.
    language_weights: how much a query of a language counts, 1 if it is not
      named; needs what `languages` needs.
    remove_mean: subtract the mean vector of all passages from each, and that
      of all queries from each query.
    materialize: write a store of the augmented vectors instead of a view, for
      what reads plain vectors; an interrupted run goes on.

  Returns:
    The view, or the new store as one.

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
    language_weights=tuple(sorted((language_weights or {}).items())),
    remove_mean=remove_mean,
  )
  weights = group_weights(opened.groups, augmentation)
  if reduction == "sum" and not remove_mean:
    _warn_of_uneven_counts(opened, weights)
  settings = augmentation.to_json()
  arguments = {"store_fingerprint": opened.fingerprint, **settings}
  if materialize:
    arguments["materialize"] = True
  folder = claim_output_dir(output_dir, stage="augment", arguments=arguments)
  view = AugmentedView(opened, augmentation)
  if materialize:
    return AugmentedView(
      materialize_vectors(view.blocks, opened, folder, augmentation=settings)
    )
  content = {
    "format_version": FORMAT_VERSION,
    "store": relate_location(opened.path, folder),
    "store_fingerprint": opened.fingerprint,
    "augmentation": settings,
  }
  if view.means is not None:
    means = dataclasses.asdict(view.means)
    content["means"] = {name: mean.tolist() for name, mean in means.items()}
  write_json(folder / VIEW_FILE, content)
  return view


def relate_location(path: str | os.PathLike, folder: str | os.PathLike) -> str:
  """What a folder's manifest notes of another folder, or of a URL.

  A path counts from the folder, so that both can be moved together.

  >>> relate_location("/data/store", "/data/views/mean")
  '../../store'
  >>> relate_location("gs://bucket/store", "/data/views/mean")
  'gs://bucket/store'
  """
  location = Location.of(path)
  if not location.is_local:
    return str(location)
  here = pathlib.Path(folder).resolve()
  return os.path.relpath(pathlib.Path(location).resolve(), here)


def find_location(noted: str, folder: str | os.PathLike) -> Location:
  """Where that lies which `relate_location` noted in a folder's manifest.

  >>> str(find_location("../../store", "/data/views/mean"))
  '/data/store'
  """
  if is_url(noted):
    return Location.of(noted)
  return Location.of((pathlib.Path(folder).resolve() / noted).resolve())


def _warn_of_uneven_counts(
  store: EmbeddingStore, weights: Float[np.ndarray, " groups"]
) -> None:
  counts = [c[:, weights != 0].sum(axis=1) for c in store.query_counts()]
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
  folder = Location.of(path)
  if not folder.is_local or not pathlib.Path(folder, VIEW_FILE).exists():
    return AugmentedView(open_store(path))
  view_file = pathlib.Path(folder, VIEW_FILE)
  view = read_json(view_file)
  if view.get("format_version") != FORMAT_VERSION:
    raise InputError(
      f"not a view of format version {FORMAT_VERSION}",
      where=view_file,
      mend="run augment again with a new OUTPUT_DIR",
    )
  store = open_store(find_location(view["store"], view_file.parent))
  if store.fingerprint != view["store_fingerprint"]:
    raise InputError(
      f"the store {store.path} has changed since the view was made",
      where=path,
      mend="run augment again with a new OUTPUT_DIR",
    )
  augmentation = Augmentation.from_json(view["augmentation"])
  return AugmentedView(store, augmentation, _read_means(view))


def _read_means(view: Mapping[str, Any]) -> Means | None:
  if "means" not in view:
    return None
  means = {name: np.array(v, np.float32) for name, v in view["means"].items()}
  return Means(**means)
