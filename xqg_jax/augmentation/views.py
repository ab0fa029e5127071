"""Views: a store seen through an augmentation, without copies of vectors.

The vectors stay as they were encoded. A view says which store, which
reduction and which alpha; the augmented vectors are made while they are read.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NotRequired, TypedDict

import numpy as np
from jaxtyping import Float

from xqg_jax.augmentation.fusion import (
  Means,
  augment_embeddings,
  group_weights,
  measure_means,
  sum_groups,
)
from xqg_jax.augmentation.settings import Augmentation, AugmentationRecord
from xqg_jax.errors import InputError
from xqg_jax.io.claims import lock_folder
from xqg_jax.io.files import fingerprint, read_json
from xqg_jax.io.locations import find_location
from xqg_jax.io.paths import Path, absolute_path
from xqg_jax.io.typed_json import PathText, Versioned, check_json
from xqg_jax.store.shards import ShardArrays, write_shards
from xqg_jax.store.store import (
  EmbeddingStore,
  StoreBlock,
  open_sound_store,
  open_store,
  write_manifest,
)

Blocks = Callable[[int], Iterable[tuple[int, np.ndarray]]]

FORMAT_VERSION = 1
VIEW_FILE = "view.json"


class MeansRecord(TypedDict):
  """Mean vectors of a store, as a view notes them."""

  passage: list[float]
  query: list[float]


class ViewRecord(Versioned):
  """Contents of `view.json`."""

  store: PathText
  store_fingerprint: str
  augmentation: AugmentationRecord
  means: NotRequired[MeansRecord]


# ----------------------------------------------------------------------- views


@dataclasses.dataclass(frozen=True)
class AugmentedView:
  """A store seen through an augmentation; without one, the store as it is.

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
      yield block.start, self._augment(self.augmentation, block, weights)

  def _augment(
    self,
    augmentation: Augmentation,
    block: StoreBlock,
    weights: Float[np.ndarray, " groups"],
  ) -> Float[np.ndarray, "rows dim"]:
    passages, (query_sum, counts) = block.passages, sum_groups(block, weights)
    if self.means is not None:
      passages, query_sum = self.means.remove(passages, query_sum, counts)
    return augment_embeddings(
      passages,
      query_sum,
      counts,
      reduction=augmentation.reduction,
      alpha=augmentation.alpha,
    )


def open_view(path: str | os.PathLike) -> AugmentedView:
  """Opens a view, or a store, which is a view without augmentation.

  Raises:
    InputError: neither of them there, or the view's store has changed.
  """
  view_file = absolute_path(path) / VIEW_FILE
  if not view_file.exists():
    return AugmentedView(open_store(path))
  versioned = read_json(view_file, Versioned)
  if versioned.get("format_version") != FORMAT_VERSION:
    raise InputError(
      f"not a view of format version {FORMAT_VERSION}",
      where=view_file,
      mend="run augment again with a new OUTPUT_DIR",
    )
  view = check_json(versioned, ViewRecord, where=view_file)
  store = open_store(find_location(view["store"], view_file.parent))
  if store.fingerprint != view["store_fingerprint"]:
    raise InputError(
      f"the store {store.path} has changed since the view was made",
      where=path,
      mend="run augment again with a new OUTPUT_DIR",
    )
  augmentation = Augmentation.from_json(view["augmentation"])
  means = _read_means(view, store.dim, view_file)
  return AugmentedView(store, augmentation, means)


def _read_means(view: ViewRecord, dim: int, where: object) -> Means | None:
  if "means" not in view:
    return None
  means = {
    name: np.array(view["means"][name], np.float32)
    for name in ("passage", "query")
  }
  for name, mean in means.items():
    if mean.shape != (dim,) or not np.isfinite(mean).all():
      raise InputError(
        f"means.{name} is not {dim} finite numbers",
        where=where,
        mend="run augment again with a new OUTPUT_DIR",
      )
  return Means(**means)


def materialize_vectors(
  blocks: Blocks,
  source: EmbeddingStore,
  folder: Path,
  *,
  augmentation: Mapping[str, Any],
) -> EmbeddingStore:
  """Writes a store with one vector a passage, shard by shard.

  Args:
    blocks: yields (first row, vectors) for a size of block.
    source: the store that the vectors were made from; passages, shards, dtype
      and encoder are its own.
    folder: of the new store.
    augmentation: how they were made, for the manifest.

  Returns:
    The new store.

  Raises:
    InputError: a damaged source, or a value that is not finite.
  """
  if (finished := open_sound_store(folder)) is not None:
    return finished
  dtype = source.manifest["dtype"]

  def read_parts() -> Iterator[ShardArrays]:
    ids = source.passage_ids
    for start, vectors in blocks(source.shard_size):
      yield ShardArrays(ids[start : start + len(vectors)], vectors)

  with lock_folder(folder):
    records = write_shards(
      folder,
      read_parts,
      dtype=dtype,
      task="augment",
      num_shards=-(-source.num_passages // source.shard_size),
      num_passages=source.num_passages,
    )
    write_manifest(
      folder,
      shards=records,
      dim=source.dim,
      dtype=dtype,
      encoder=source.manifest["encoder"],
      groups=[],
      inputs={"store": source.fingerprint, "augmentation": dict(augmentation)},
    )
  return open_store(folder)
