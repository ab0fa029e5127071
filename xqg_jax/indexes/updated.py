"""Updated index: a built one, and exact search of what is new beside it.

base_rows.npy     by row of the index that was updated, the row it has now,
                  -1 for what is gone
fresh.npy         vectors searched exactly,
fresh_rows.npy    and their rows
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, cast

import numpy as np
from jaxtyping import Float, Int

from xqg_jax.errors import InputError
from xqg_jax.indexes.exact.search import (
  BLOCK_SIZE,
  EXACT,
  ExactSettings,
  search_exact,
)
from xqg_jax.indexes.index import Index
from xqg_jax.indexes.manifest import UpdatedManifest
from xqg_jax.indexes.neighbors import Neighbors, merge_neighbors
from xqg_jax.io.files import check_file
from xqg_jax.io.local_copies import copy_here
from xqg_jax.io.locations import Location, find_location
from xqg_jax.store.vector_checks import check_queries

BASE_ROWS_FILE = "base_rows.npy"
FRESH_FILE = "fresh.npy"
FRESH_ROWS_FILE = "fresh_rows.npy"


@dataclasses.dataclass(frozen=True)
class UpdatedIndex(Index):
  """An index that `update_index` wrote.

  Attributes:
    open_base: opens the index that was updated.
  """

  open_base: Callable[[Location], Index]

  is_exact: ClassVar[bool] = False

  @property
  def _update(self) -> UpdatedManifest:
    return cast(UpdatedManifest, self.manifest)  # checked when it was opened

  @functools.cached_property
  def base(self) -> Index:
    """The built index of which this one is an update."""
    path = find_location(self._update["base_index"], self.path)
    base = self.open_base(path)
    if base.fingerprint != self._update["base_fingerprint"]:
      raise InputError(
        "the index is not the one that was updated",
        where=path,
        mend="update it again with a new OUTPUT_DIR",
      )
    return base

  def verify(self) -> None:
    """Compares all of its files with their checksums; not the base's."""
    super().verify()
    for name in self._update["files"]:
      self._check(name)

  def _check(self, name: str) -> None:
    mend = "run the same update-index command again to mend it"
    check_file(self.path / name, self._update["files"][name], mend=mend)

  def _read_array(self, name: str) -> np.ndarray:
    path = self.path / name
    self._check(name)
    return np.load(copy_here(path), mmap_mode="r", allow_pickle=False)

  @functools.cached_property
  def base_rows(self) -> Int[np.ndarray, " base"]:
    """The row of each of the base's passages; -1 for none."""
    return self._read_array(BASE_ROWS_FILE)

  @functools.cached_property
  def _fresh(self) -> tuple[np.ndarray, np.ndarray]:
    """Vectors that the base lacks, and their rows."""
    return self._read_array(FRESH_FILE), self._read_array(FRESH_ROWS_FILE)

  def search(
    self,
    queries: Float[np.ndarray, "queries query_dim"],
    k: int,
    *,
    settings: ExactSettings = EXACT,
    across_processes: bool = False,
  ) -> Neighbors:
    """As `Index.search`: the base's neighbors and the new ones, merged."""
    check_queries(queries, dim=self.dim, k=k)
    k = min(k, self.num_passages)
    how = {"settings": settings, "across_processes": across_processes}
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
    """Closes the base, if it was opened."""
    if "base" in self.__dict__:
      self.base.close()
