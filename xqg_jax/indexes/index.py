"""Indexes on disk, whole, in shards, or updated: opened, checked, searched.

manifest.json     kind, embeddings, parameters, measured recall and speed
passage_ids.txt   one id a line, in order of rows
scann/            ScaNN's assets, only for kind "scann"; several shards have
                  scann-00000/, scann-00001/ and so on
base_rows.npy     only after an update: by row of the index that was updated,
                  the row it has now, -1 for what is gone
fresh.npy         only after an update: vectors searched exactly,
fresh_rows.npy    and their rows
"""

import dataclasses
import functools
import itertools
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from xqg_jax.augmentation.views import AugmentedView, open_view
from xqg_jax.errors import InputError
from xqg_jax.indexes.exact.search import (
  BLOCK_SIZE,
  EXACT,
  ExactSettings,
  search_exact,
)
from xqg_jax.indexes.neighbors import (
  Neighbors,
  merge_neighbors,
  merge_processes,
  take_turn,
)
from xqg_jax.indexes.scann.index import (
  BUILD_AGAIN,
  ScannError,
  ScannIndex,
  ScannParameters,
)
from xqg_jax.io.files import fingerprint, read_json, sha256_file
from xqg_jax.io.locations import Location, find_location
from xqg_jax.io.paths import to_path
from xqg_jax.models.dual_encoder.dual_encoder import DualEncoder
from xqg_jax.store.vector_checks import check_queries

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
IDS_FILE = "passage_ids.txt"
ASSETS_DIR = "scann"
BASE_ROWS_FILE = "base_rows.npy"
FRESH_FILE = "fresh.npy"
FRESH_ROWS_FILE = "fresh_rows.npy"


@dataclasses.dataclass(frozen=True)
class Index:
  """A finished index, opened lazily; a context manager.

  Attributes:
    path: its folder.
    manifest: contents of `manifest.json`.
  """

  path: pathlib.Path
  manifest: Mapping[str, Any]

  @property
  def kind(self) -> str:
    """How it searches: "scann" or "exact"."""
    return self.manifest["kind"]

  @property
  def dim(self) -> int:
    """Dimensions of a vector."""
    return self.manifest["dim"]

  @property
  def num_passages(self) -> int:
    """Number of passages."""
    return self.manifest["num_passages"]

  @property
  def encoder_fingerprint(self) -> str:
    """Fingerprint of the dual encoder that made the vectors."""
    return self.manifest["encoder_fingerprint"]

  @functools.cached_property
  def fingerprint(self) -> str:
    """SHA-256 of what decides results; not of where it lies or how fast."""
    apart = ("embeddings", "measured", "base_index")
    return fingerprint(
      {name: v for name, v in self.manifest.items() if name not in apart}
    )

  @property
  def embeddings(self) -> Location:
    """The store or view that was indexed."""
    return find_location(self.manifest["embeddings"], self.path)

  @functools.cached_property
  def passage_ids(self) -> list[str]:
    """The passages' ids in order of rows, checked against the manifest.

    Raises:
      InputError: the file is missing or was changed.
    """
    path = self.path / IDS_FILE
    _check_file(path, self.manifest["passage_ids"], mend=BUILD_AGAIN)
    return path.read_text(encoding="utf-8").split("\n")[:-1]

  def open_embeddings(self) -> AugmentedView:
    """Opens the store or view that was indexed.

    Raises:
      InputError: it is gone, or another one lies there.
    """
    view = open_view(self.embeddings)
    if view.fingerprint != self.manifest["embeddings_fingerprint"]:
      raise InputError(
        "the embeddings are not those that were indexed",
        where=self.embeddings,
        mend="index them with a new OUTPUT_DIR",
      )
    return view

  @functools.cached_property
  def _view(self) -> AugmentedView:
    return self.open_embeddings()

  @property
  def shards(self) -> list[Mapping[str, Any]]:
    """Of a ScaNN index: name, start, rows, parameters and assets of each."""
    if "shards" in self.manifest:
      return self.manifest["shards"]
    whole = {"name": ASSETS_DIR, "start": 0, "rows": self.num_passages}
    parts = {name: self.manifest[name] for name in ("parameters", "assets")}
    return [{**whole, **parts}]

  @functools.cached_property
  def _loaded(self) -> dict[str, ScannIndex]:
    """The shards that are kept open, by name."""
    return {}

  @property
  def is_update(self) -> bool:
    """Whether `update_index` wrote it."""
    return "base_fingerprint" in self.manifest

  @functools.cached_property
  def base(self) -> "Index":
    """The built index of which this one is an update."""
    path = find_location(self.manifest["base_index"], self.path)
    base = open_index(path)
    if base.fingerprint != self.manifest["base_fingerprint"]:
      raise InputError(
        "the index is not the one that was updated",
        where=path,
        mend="update it again with a new OUTPUT_DIR",
      )
    return base

  def _read_array(self, name: str) -> np.ndarray:
    path = self.path / name
    mend = "update the index again with a new OUTPUT_DIR"
    _check_file(path, self.manifest["files"][name], mend=mend)
    return np.load(path, mmap_mode="r", allow_pickle=False)

  @functools.cached_property
  def base_rows(self) -> Int[np.ndarray, " base"]:
    """Of an update: the row of each of the base's passages; -1 for none."""
    return self._read_array(BASE_ROWS_FILE)

  @functools.cached_property
  def _fresh(self) -> tuple[np.ndarray, np.ndarray]:
    """Of an update: vectors that the base lacks, and their rows."""
    return self._read_array(FRESH_FILE), self._read_array(FRESH_ROWS_FILE)

  def search(
    self,
    queries: Float[np.ndarray, "queries query_dim"],
    k: int,
    *,
    settings: ExactSettings = EXACT,
    across_processes: bool = False,
  ) -> Neighbors:
    """Finds the k nearest passages of each query.

    Args:
      queries: query embeddings, float32.
      k: how many; as many as there are passages when that is less.
      settings: of exact search.
      across_processes: as for `search_exact`; shards are shared, too.

    Returns:
      (scores, rows int32) [queries, k]; row -1 where nothing was found.

    Raises:
      InputError: bad queries, or an index whose files were changed.
      ScannError: ScaNN failed or crashed.
    """
    check_queries(queries, dim=self.dim, k=k)
    k = min(k, self.num_passages)
    how = {"settings": settings, "across_processes": across_processes}
    if self.is_update:
      return self._search_updated(queries, k, **how)
    if self.kind == "exact":
      return search_exact(queries, self._view.blocks(BLOCK_SIZE), k, **how)
    turn, num_turns = take_turn(across_processes)
    nothing = np.empty((len(queries), 0), np.float32)
    found = [(nothing, nothing.astype(np.int32))]
    found += [
      self._search_shard(shard, queries, k)
      for shard in self.shards[turn::num_turns]
    ]
    merged = merge_neighbors(found, k)
    return merge_processes(merged, k) if across_processes else merged

  def _search_shard(
    self,
    shard: Mapping[str, Any],
    queries: Float[np.ndarray, "queries dim"],
    k: int,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Loads a shard if need be, and keeps it if all of them fit in memory."""
    index = self._loaded.get(shard["name"]) or load_shard(
      self.path, shard, dim=self.dim
    )
    if len(self.shards) == 1 or self._fits_memory:
      self._loaded[shard["name"]] = index
    try:
      return shift_rows(index.search(queries, k), shard["start"])
    except ScannError:
      # Its process is gone, as a rule: the next search starts another.
      self._loaded.pop(shard["name"], None)
      raise
    finally:
      if shard["name"] not in self._loaded:
        index.close()

  @property
  def _fits_memory(self) -> bool:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 4 * self.num_passages * self.dim < memory // 2

  def _search_updated(
    self, queries: Float[np.ndarray, "queries dim"], k: int, **how: Any
  ) -> Neighbors:
    vectors, rows = self._fresh
    found = []
    if num_kept := int((self.base_rows >= 0).sum()):
      found.append(self._search_base(queries, min(k, num_kept), **how))
    if len(vectors):
      starts = range(0, len(vectors), BLOCK_SIZE)
      blocks = ((i, vectors[i : i + BLOCK_SIZE]) for i in starts)
      scores, places = search_exact(queries, blocks, k, **how)
      found.append((scores, rows[places]))
    return merge_neighbors(found, k)

  def _search_base(
    self, queries: Float[np.ndarray, "queries dim"], k: int, **how: Any
  ) -> tuple[np.ndarray, np.ndarray]:
    """Asks for more until k are found that are not gone."""
    base_rows = self.base_rows
    num_gone = int((base_rows < 0).sum())
    asked = k + min(k, num_gone)
    while True:
      scores, found = self.base.search(queries, asked, **how)
      rows = np.where(found < 0, np.int32(-1), base_rows[found])
      is_enough = ((rows >= 0).sum(axis=1) >= k) | (found < 0).any(axis=1)
      if asked >= len(base_rows) or is_enough.all():
        return np.where(rows < 0, np.float32(-np.inf), scores), rows
      asked *= 2

  def close(self) -> None:
    """Ends the processes of ScaNN, if there are any."""
    for index in self._loaded.values():
      index.close()
    self._loaded.clear()
    if "base" in self.__dict__:
      self.base.close()

  def __enter__(self) -> "Index":
    return self

  def __exit__(self, *exception: object) -> None:
    self.close()


def load_shard(
  folder: pathlib.Path, shard: Mapping[str, Any], *, dim: int
) -> ScannIndex:
  """Loads one shard of a ScaNN index after checking its assets.

  Raises:
    InputError: an asset is missing, unknown, or was changed.
    ScannError: ScaNN failed or crashed.
  """
  return ScannIndex.load(
    folder / shard["name"],
    checksums=shard["assets"],
    num_vectors=shard["rows"],
    dim=dim,
    parameters=ScannParameters(**shard["parameters"]),
  )


def shift_rows(
  found: tuple[np.ndarray, np.ndarray], start: int
) -> tuple[np.ndarray, np.ndarray]:
  """A shard's rows as rows of the whole; places without a row stay so.

  >>> shift_rows((np.array([[0.5, -np.inf]]), np.array([[3, -1]])), 10)[1]
  array([[13, -1]])
  """
  scores, rows = found
  return scores, np.where(rows < 0, -1, rows + start).astype(rows.dtype)


def _check_file(path: pathlib.Path, checksum: str, *, mend: str) -> None:
  if not path.is_file() or sha256_file(path) != checksum:
    raise InputError(
      "is missing or differs from its checksum", where=path, mend=mend
    )


def open_index(path: str | os.PathLike) -> Index:
  """Opens an index: reads its manifest, and nothing else yet.

  Raises:
    InputError: no finished index there, one of another format, or one whose
      shards are not all its rows.
  """
  path = to_path(path)
  if not (path / MANIFEST_FILE).exists():
    raise InputError(
      "no finished index here (manifest.json is missing)",
      where=path,
      mend="check the path, or run the same index command again",
    )
  manifest = read_json(path / MANIFEST_FILE)
  is_index = isinstance(manifest, dict) and "embeddings_fingerprint" in manifest
  if not is_index or manifest.get("format_version") != FORMAT_VERSION:
    raise InputError(
      f"not an index of format version {FORMAT_VERSION}",
      where=path / MANIFEST_FILE,
      mend="build the index with this version and a new OUTPUT_DIR",
    )
  index = Index(path, manifest)
  if "shards" in manifest:
    _check_shards(index)
  return index


def _check_shards(index: Index) -> None:
  starts = [shard["start"] for shard in index.shards]
  ends = itertools.accumulate(shard["rows"] for shard in index.shards)
  if [*starts, index.num_passages] != [0, *ends]:
    raise InputError(
      f"the shards do not hold rows 0 to {index.num_passages} in order",
      where=index.path / MANIFEST_FILE,
      mend=BUILD_AGAIN,
    )


def check_encoder(index: Index, model: DualEncoder) -> None:
  """Refuses a dual encoder that did not make the index's vectors.

  Raises:
    InputError: its fingerprint is another.
  """
  if model.fingerprint != index.encoder_fingerprint:
    raise InputError(
      "the index holds vectors of another encoder (its fingerprint is "
      f"{index.encoder_fingerprint[:12]}, the checkpoint's is "
      f"{model.fingerprint[:12]})",
      where=index.path,
      mend="give the checkpoint, pooling and prefixes of the passages",
    )
