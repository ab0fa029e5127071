"""Sharded index: several indexes of a kind that search as one."""

import abc
import dataclasses
import functools
import itertools
import os
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, TypedDict, runtime_checkable

import numpy as np
from jaxtyping import Float

from xqg_jax.errors import InputError, NativeError
from xqg_jax.indexes.exact.search import EXACT, ExactSettings
from xqg_jax.indexes.index import BUILD_AGAIN, BuiltIndex
from xqg_jax.indexes.manifest import IndexParts
from xqg_jax.indexes.neighbors import (
  Neighbors,
  merge_neighbors,
  merge_processes,
  shift_rows,
  take_turn,
)
from xqg_jax.io.claims import MANIFEST_FILE
from xqg_jax.io.typed_json import check_json
from xqg_jax.store.vector_checks import check_queries


@runtime_checkable
class Part(Protocol):
  """One shard, in memory."""

  def search(self, queries: Float[np.ndarray, "queries dim"], k: int) -> Any:
    """(scores, rows of the shard) of the k nearest vectors."""

  def close(self) -> None:
    """Frees what it holds."""


@dataclasses.dataclass(frozen=True)
class ShardedIndex(BuiltIndex):
  """An index in parts, each with its rows; one part is a case of it.

  A kind says what its whole is called, and how a part is loaded.
  """

  is_exact: ClassVar[bool] = False
  whole_name: ClassVar[str]
  whole_keys: ClassVar[tuple[str, ...]]
  parts_schema: ClassVar[type] = IndexParts

  @abc.abstractmethod
  def _load_part(self, shard: Mapping[str, Any]) -> Part:
    """Loads one of `shards` after checking its files."""

  def __post_init__(self):
    where = self.path / MANIFEST_FILE
    if "shards" not in self.manifest:
      make_schema: Any = TypedDict  # of keys that a kind names
      whole = make_schema("Whole", dict.fromkeys(self.whole_keys, Any))
      check_json(self.manifest, whole, where=where)
    check_json({"shards": self.shards}, self.parts_schema, where=where)
    if "shards" not in self.manifest:
      return
    starts = [shard["start"] for shard in self.shards]
    ends = itertools.accumulate(shard["rows"] for shard in self.shards)
    if [*starts, self.num_passages] != [0, *ends]:
      raise InputError(
        f"the shards do not hold rows 0 to {self.num_passages} in order",
        where=self.path / MANIFEST_FILE,
        mend=BUILD_AGAIN,
      )

  @property
  def shards(self) -> list[Mapping[str, Any]]:
    """Name, start and rows of each, and what its kind notes of it."""
    if "shards" in self.manifest:
      return self.manifest["shards"]
    whole = {"name": self.whole_name, "start": 0, "rows": self.num_passages}
    return [{**whole, **{key: self.manifest[key] for key in self.whole_keys}}]

  @functools.cached_property
  def _loaded(self) -> dict[str, Part]:
    """The shards that are kept open, by name."""
    return {}

  def search(
    self,
    queries: Float[np.ndarray, "queries query_dim"],
    k: int,
    *,
    settings: ExactSettings = EXACT,
    across_processes: bool = False,
  ) -> Neighbors:
    """As `Index.search`; processes share the shards."""
    del settings
    check_queries(queries, dim=self.dim, k=k)
    k = min(k, self.num_passages)
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
    part = self._loaded.get(shard["name"]) or self._load_part(shard)
    if len(self.shards) == 1 or self._fits_memory:
      self._loaded[shard["name"]] = part
    try:
      return shift_rows(part.search(queries, k), shard["start"])
    except NativeError:
      # Its process is gone, as a rule: the next search starts another.
      self._loaded.pop(shard["name"], None)
      raise
    finally:
      if shard["name"] not in self._loaded:
        part.close()

  @property
  def _fits_memory(self) -> bool:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 4 * self.num_passages * self.dim < memory // 2

  def close(self) -> None:
    """Closes the shards that are kept open."""
    for part in self._loaded.values():
      part.close()
    self._loaded.clear()
