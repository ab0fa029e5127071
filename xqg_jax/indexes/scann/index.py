"""ScaNN index: build, save, load, search.

Tree, anisotropic hashing and reordering by exact inner products. The native
code runs in a process of its own (`worker.py`): if it aborts, the caller
gets a `ScannError` that tells what it last said.
"""

import dataclasses
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NotRequired, TypedDict

import numpy as np
from jaxtyping import Float, Int

from xqg_jax.errors import InputError
from xqg_jax.indexes.index import BUILD_AGAIN
from xqg_jax.indexes.manifest import IndexPart
from xqg_jax.indexes.scann.process import ScannProcess
from xqg_jax.io.files import atomic_path, sha256_file, write_npy
from xqg_jax.io.local_copies import copy_here
from xqg_jax.io.locations import cannot_write
from xqg_jax.io.paths import Path, to_path
from xqg_jax.io.typed_json import PathText, Positive, refuse_unknown
from xqg_jax.store.vector_checks import check_queries, check_vectors

# ScaNN's hashing needs 16 vectors, and a tree over so few saves nothing.
MIN_VECTORS = 200
NUM_NEIGHBORS = 100
ASSETS_DIR = "scann"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScannParameters:
  """How an index is built and searched.

  Attributes:
    num_leaves: cells that the tree divides the vectors into.
    num_leaves_to_search: cells looked into for each query.
    num_reordered: candidates whose inner product is then taken exactly.
    dimensions_per_block: dimensions that one hash code stands for.
    anisotropic_threshold: T of anisotropic quantisation (Guo et al. 2020).
    training_sample_size: vectors that tree and hash codes are trained on.
  """

  num_leaves: int
  num_leaves_to_search: int
  num_reordered: int
  dimensions_per_block: int = 2
  anisotropic_threshold: float = 0.2
  training_sample_size: int = 100_000


def derive_parameters(
  num_vectors: int, *, k: int = NUM_NEIGHBORS, num_leaves: int | None = None
) -> ScannParameters:
  """Chooses parameters by the size of the corpus, to be tuned afterwards.

  >>> derive_parameters(10_000).num_leaves
  100
  """
  leaves = num_leaves or max(1, round(math.sqrt(num_vectors)))
  if not 1 <= leaves <= num_vectors:
    raise InputError(
      f"num_leaves is {leaves} for {num_vectors} passages",
      mend="use at most as many leaves as passages, or leave it unset",
    )
  return ScannParameters(
    num_leaves=leaves,
    num_leaves_to_search=max(1, leaves // 8),
    num_reordered=min(num_vectors, 2 * k),
    training_sample_size=min(num_vectors, max(100_000, 40 * leaves)),
  )


def write_vectors(
  path: str | os.PathLike,
  blocks: Iterable[tuple[int, np.ndarray]],
  *,
  num_vectors: int,
  dim: int,
) -> None:
  """Writes the blocks of a corpus, in order, as one float32 .npy file.

  Raises:
    InputError: a vector that is not finite, or a full disk.
  """
  try:
    with open(path, "wb") as file:
      write_npy(file, _check_blocks(blocks), shape=(num_vectors, dim))
  except OSError as error:
    raise cannot_write(path, error) from None


def _check_blocks(
  blocks: Iterable[tuple[int, np.ndarray]],
) -> Iterator[np.ndarray]:
  for start, vectors in blocks:
    check_vectors(vectors, "passage", first_row=start)
    yield vectors


class ScannIndex:
  """An index of vectors, searched by inner product; a context manager."""

  def __init__(
    self,
    worker: ScannProcess,
    *,
    num_vectors: int,
    dim: int,
    parameters: ScannParameters,
  ):
    self._worker = worker
    self.num_vectors = num_vectors
    self.dim = dim
    self.parameters = parameters

  @classmethod
  def build(
    cls,
    vectors: str | os.PathLike,
    parameters: ScannParameters | None = None,
    *,
    num_threads: int | None = None,
  ) -> "ScannIndex":
    """Builds an index; the same vectors and parameters give the same bytes.

    Args:
      vectors: a .npy file of float32 vectors [passages, dim].
      parameters: derived from the number of vectors when absent.
      num_threads: threads to train with; all cores when absent.

    Raises:
      InputError: too few vectors, or fewer vectors than leaves.
      ScannError: ScaNN failed or crashed.
    """
    shape = np.load(vectors, mmap_mode="r", allow_pickle=False).shape
    parameters = parameters or derive_parameters(shape[0])
    if shape[0] < max(MIN_VECTORS, parameters.num_leaves):
      raise InputError(
        f"{shape[0]} vectors are too few for a ScaNN index with "
        f"{parameters.num_leaves} leaves",
        where=vectors,
        mend="search them exactly",
      )
    worker = ScannProcess()
    worker.call(
      "build",
      vectors=str(vectors),
      num_neighbors=min(NUM_NEIGHBORS, shape[0]),
      num_threads=num_threads or os.cpu_count() or 1,
      **dataclasses.asdict(parameters),
    )
    return cls(
      worker, num_vectors=shape[0], dim=shape[1], parameters=parameters
    )

  @classmethod
  def load(
    cls,
    folder: str | os.PathLike,
    *,
    checksums: Mapping[str, str],
    num_vectors: int,
    dim: int,
    parameters: ScannParameters,
  ) -> "ScannIndex":
    """Loads saved assets after checking each of them.

    Args:
      folder: what `save` wrote.
      checksums: what `save` returned.
      num_vectors: number of vectors indexed.
      dim: their dimension.
      parameters: how to search.

    Raises:
      InputError: an asset is missing, unknown, or was changed.
      ScannError: ScaNN failed or crashed.
    """
    folder = copy_here(folder)
    check_assets(folder, checksums)
    worker = ScannProcess()
    worker.call("load", folder=str(folder.resolve()))
    return cls(worker, num_vectors=num_vectors, dim=dim, parameters=parameters)

  def save(self, folder: str | os.PathLike) -> dict[str, str]:
    """Writes the assets atomically; returns the SHA-256 of each by name."""
    with atomic_path(folder) as partial:
      partial.mkdir()
      self._worker.call("save", folder=str(partial.resolve()))
      return {
        path.name: sha256_file(path) for path in sorted(partial.iterdir())
      }

  def search(
    self,
    queries: Float[np.ndarray, "queries query_dim"],
    k: int,
    *,
    num_leaves_to_search: int | None = None,
    num_reordered: int | None = None,
  ) -> tuple[Float[np.ndarray, "queries k"], Int[np.ndarray, "queries k"]]:
    """Finds about the k vectors with the largest inner products.

    Args:
      queries: query embeddings, float32.
      k: how many neighbors; as many as there are vectors when that is less.
      num_leaves_to_search: another number of leaves than the parameters say.
      num_reordered: another number of candidates.

    Returns:
      (scores, rows int32) [queries, k], best first. Places that the leaves
      searched could not fill have row -1 and score -inf.

    Raises:
      InputError: queries that are not finite or of another dimension.
      ScannError: ScaNN failed or crashed.
    """
    check_queries(queries, dim=self.dim, k=k)
    k = min(k, self.num_vectors)
    leaves = num_leaves_to_search or self.parameters.num_leaves_to_search
    reordered = num_reordered or self.parameters.num_reordered
    scores, rows = self._worker.call(
      "search",
      [np.ascontiguousarray(queries, np.float32)],
      k=k,
      num_leaves_to_search=min(leaves, self.parameters.num_leaves),
      num_reordered=min(max(reordered, k), self.num_vectors),
    )
    is_filled = ~np.isnan(scores)
    rows = np.where(is_filled, rows.astype(np.int32), np.int32(-1))
    return np.where(is_filled, scores, np.float32(-np.inf)), rows

  @property
  def worker_pid(self) -> int:
    """Id of the process that ScaNN runs in."""
    return self._worker.pid

  def close(self) -> None:
    """Ends the process; the index cannot be searched any more."""
    self._worker.close()

  def __enter__(self) -> "ScannIndex":
    return self

  def __exit__(self, *exception: object) -> None:
    self.close()


class ScannRecord(TypedDict):
  """`ScannParameters` as files note them."""

  num_leaves: Positive
  num_leaves_to_search: Positive
  num_reordered: Positive
  dimensions_per_block: NotRequired[Positive]
  anisotropic_threshold: NotRequired[float]
  training_sample_size: NotRequired[Positive]


class ScannShard(IndexPart):
  """A shard with its parameters, and checksums of its assets."""

  parameters: ScannRecord
  assets: dict[PathText, str]


class ScannParts(TypedDict):
  """All shards of an index."""

  shards: list[ScannShard]


def load_shard(
  folder: Path, shard: Mapping[str, Any], *, dim: int
) -> ScannIndex:
  """Loads one shard of a ScaNN index after checking its assets.

  Raises:
    InputError: an asset is missing, unknown, or was changed.
    ScannError: ScaNN failed or crashed.
  """
  refuse_unknown(shard["parameters"], ScannRecord, where=folder)
  return ScannIndex.load(
    folder / shard["name"],
    checksums=shard["assets"],
    num_vectors=shard["rows"],
    dim=dim,
    parameters=ScannParameters(**shard["parameters"]),
  )


def check_assets(
  folder: str | os.PathLike, checksums: Mapping[str, str]
) -> None:
  """Compares every file of a folder with its SHA-256.

  ScaNN itself loads damaged files without a word.

  Raises:
    InputError: a file is missing, changed, or not one of those saved.
  """
  folder = to_path(folder)
  mend = BUILD_AGAIN
  for name, checksum in checksums.items():
    path = folder / name
    if not path.is_file():
      raise InputError("the index's file is missing", where=path, mend=mend)
    if sha256_file(path) != checksum:
      raise InputError(
        "the index's file was changed or cut (its checksum differs)",
        where=path,
        mend=mend,
      )
  if not folder.is_dir():
    raise InputError("no such folder", where=folder, mend=mend)
  for path in folder.iterdir():
    if path.name not in checksums:
      raise InputError(
        "a file that does not belong to the index", where=path, mend=mend
      )
