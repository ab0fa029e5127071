"""Embedding store: passage vectors and query sums on disk.

A folder of shards (see `xqg_jax.store.shards`) and, written last, the file
`manifest.json`: format, counts, encoder, groups, and the checksums of every
array. It opens in milliseconds; an array is read when it is needed and its
checksum is compared the first time.
"""

import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypedDict

import numpy as np
from jaxtyping import Float, Int32

from xqg_jax.errors import InputError
from xqg_jax.io.claims import MANIFEST_FILE
from xqg_jax.io.files import fingerprint
from xqg_jax.io.locations import Location
from xqg_jax.io.manifests import tell_of_damage
from xqg_jax.io.typed_json import Count, Positive, Versioned, check_json
from xqg_jax.runtime.prefetch import prefetch
from xqg_jax.store.shards import (
  ShardRecord,
  check_shard,
  read_array,
  read_checked,
)

FORMAT_VERSION = 1
# The fingerprint of imported vectors of which nobody said what made them.
UNKNOWN_ENCODER = "unknown"

Group = Mapping[str, Any]


class GroupRecord(TypedDict):
  """What a column of the query arrays is over; null stands for all."""

  language: str | None
  rank: Count | None


class EncoderRecord(TypedDict):
  """The dual encoder that made the vectors, besides its configuration."""

  fingerprint: str


class StoreManifest(Versioned):
  """Contents of a store's `manifest.json`."""

  num_passages: Count
  dim: Positive
  dtype: Literal["float32", "bfloat16", "float16"]
  encoder: EncoderRecord
  groups: list[GroupRecord]
  inputs: dict[str, Any]
  shards: list[ShardRecord]


@dataclasses.dataclass(frozen=True)
class StoreBlock:
  """Some consecutive passages, from row `start` of the store, in float32."""

  start: int
  passages: Float[np.ndarray, "rows dim"]
  query_sums: Float[np.ndarray, "rows groups dim"] | None = None
  query_counts: Int32[np.ndarray, "rows groups"] | None = None


# -------------------------------------------------------------------- writing


def write_manifest(
  folder: str | os.PathLike,
  *,
  shards: Sequence[Mapping[str, Any]],
  dim: int,
  dtype: str,
  encoder: Mapping[str, Any],
  groups: Sequence[Group],
  inputs: Mapping[str, Any],
) -> None:
  """Writes the manifest, which makes a folder of shards a store.

  Args:
    folder: the store's folder.
    shards: the records that `write_shards` returned, in order.
    dim: dimensions of a vector.
    dtype: as written.
    encoder: fingerprint and configuration of the dual encoder.
    groups: what each column of the query arrays holds; empty without them.
    inputs: file names and checksums of what was encoded.
  """
  manifest = {
    "format_version": FORMAT_VERSION,
    "num_passages": sum(shard["rows"] for shard in shards),
    "dim": dim,
    "dtype": dtype,
    "encoder": dict(encoder),
    "groups": [dict(group) for group in groups],
    "inputs": dict(inputs),
    "shards": [dict(shard) for shard in shards],
  }
  (Location.of(folder) / MANIFEST_FILE).write_json(manifest)


# -------------------------------------------------------------------- reading


@dataclasses.dataclass(frozen=True)
class EmbeddingStore:
  """A finished store, opened lazily.

  Attributes:
    path: its folder, on disk or in a bucket.
    manifest: contents of `manifest.json`.
  """

  path: Location
  manifest: StoreManifest

  @property
  def num_passages(self) -> int:
    """Number of passages."""
    return self.manifest["num_passages"]

  @property
  def num_shards(self) -> int:
    """Number of shards."""
    return len(self.manifest["shards"])

  @property
  def shard_size(self) -> int:
    """Passages of the first shard; others have at most as many."""
    return self.manifest["shards"][0]["rows"]

  @property
  def dim(self) -> int:
    """Dimensions of a vector."""
    return self.manifest["dim"]

  @property
  def groups(self) -> list[Group]:
    """What each query sum is over: `language` and `rank`, None = all.

    Empty when the store was made without generated queries.
    """
    return list(self.manifest["groups"])

  @functools.cached_property
  def fingerprint(self) -> str:
    """SHA-256 over encoder, layout and all vectors (by their checksums)."""
    return fingerprint(self.manifest)

  @property
  def encoder_fingerprint(self) -> str:
    """Fingerprint of the dual encoder that made the vectors."""
    return self.manifest["encoder"]["fingerprint"]

  @functools.cached_property
  def passage_ids(self) -> list[str]:
    """The passages' ids in order of rows, read when first asked for."""
    ids: list[str] = []
    for record in self.manifest["shards"]:
      ids += read_checked(self.path, record, "passage_ids")
    return ids

  @functools.cached_property
  def _checked(self) -> set[tuple[str, str]]:
    """Shards and arrays whose checksums this object has compared."""
    return set()

  def _read(self, record: Mapping[str, Any], name: str) -> np.ndarray:
    if (record["name"], name) in self._checked:
      return read_array(self.path / record["name"] / name)
    array = read_checked(self.path, record, name)
    self._checked.add((record["name"], name))
    return array

  def _read_shards(self, names: Sequence[str]) -> Iterator[list[np.ndarray]]:
    """The named arrays of each shard; the next shard is read meanwhile."""

    def read(record: Mapping[str, Any]) -> list[np.ndarray]:
      arrays = [self._read(record, name) for name in names]
      # The counts stay int32, all vectors become float32.
      return [
        a if a.dtype == np.int32 else a.astype(np.float32, copy=False)
        for a in arrays
      ]

    yield from prefetch(map(read, self.manifest["shards"]))

  def blocks(
    self, block_size: int, *, use_queries: bool = True
  ) -> Iterator[StoreBlock]:
    """Streams the store in blocks of `block_size` rows (the last: the rest).

    Args:
      block_size: rows in a block, whatever the size of the shards.
      use_queries: whether to read the query sums and counts, too.

    Raises:
      InputError: a damaged array.
    """
    names = ["passages"]
    if use_queries and self.groups:
      names += ["query_sums", "query_counts"]
    start = 0
    for arrays in _regroup(self._read_shards(names), block_size):
      yield StoreBlock(start, *arrays)
      start += len(arrays[0])

  def query_counts(self) -> Iterator[Int32[np.ndarray, "rows groups"]]:
    """Streams the numbers of generated queries, a shard at a time."""
    for (counts,) in self._read_shards(["query_counts"]):
      yield counts

  def verify(self) -> None:
    """Reads everything and compares every checksum and number of rows.

    Raises:
      InputError: a damaged or missing array; the message names it.
    """
    for record in self.manifest["shards"]:
      check_shard(self.path, record)


def _regroup(
  shards: Iterator[list[np.ndarray]], block_size: int
) -> Iterator[list[np.ndarray]]:
  """Cuts the concatenation of the shards into blocks of `block_size` rows."""
  parts: list[list[np.ndarray]] = []
  missing = block_size
  for arrays in shards:
    while len(arrays[0]):
      head = [array[:missing] for array in arrays]
      arrays = [array[missing:] for array in arrays]
      parts.append(head)
      missing -= len(head[0])
      if not missing:
        yield _concatenate(parts)
        parts, missing = [], block_size
  if parts:
    yield _concatenate(parts)


def _concatenate(parts: Sequence[list[np.ndarray]]) -> list[np.ndarray]:
  if len(parts) == 1:
    return parts[0]
  return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


def open_store(path: str | os.PathLike) -> EmbeddingStore:
  """Opens a store: reads its manifest, and nothing else yet.

  Args:
    path: its folder, on disk or in a bucket (`gs://`).

  Raises:
    InputError: no folder, no finished store in it, one of another format, or
      a manifest whose counts of passages do not agree.
  """
  folder = Location.of(path)
  manifest = (folder / MANIFEST_FILE).read_json(Versioned)
  if manifest is None and not folder.list_names():
    raise InputError("no such folder", where=folder, mend="check the path")
  if manifest is None:
    raise InputError(
      "no finished embedding store here (manifest.json is missing)",
      where=folder,
      mend="run the same encode command again to finish it",
    )
  if manifest.get("format_version") != FORMAT_VERSION:
    raise InputError(
      "not an embedding store of format version "
      f"{FORMAT_VERSION} (found {manifest.get('format_version')!r})",
      where=folder / MANIFEST_FILE,
      mend="encode again with this version",
    )
  return EmbeddingStore(
    folder, _check_manifest(manifest, folder / MANIFEST_FILE)
  )


def _check_manifest(versioned: Versioned, where: Location) -> StoreManifest:
  """Refuses fields of other types, and counts that do not agree."""
  manifest = check_json(versioned, StoreManifest, where=where)
  num_rows = sum(record["rows"] for record in manifest["shards"])
  if manifest["num_passages"] != num_rows:
    raise InputError(
      f"notes {manifest['num_passages']} passages, and {num_rows} in shards",
      where=where,
      mend="run the same encode command again to mend it",
    )
  needed = {"query_sums", "query_counts"} if manifest["groups"] else set()
  for record in manifest["shards"]:
    if missing := needed - set(record["sha256"]):
      raise InputError(
        f"notes groups of queries, but no {min(missing)} in {record['name']}",
        where=where,
        mend="run the same encode command again to mend it",
      )
  return manifest


def open_sound_store(path: str | os.PathLike) -> EmbeddingStore | None:
  """Opens a store after comparing all of it with its checksums.

  Returns:
    The store; None where there is none that is finished and sound. What is
    damaged is told of on standard error.
  """
  folder = Location.of(path)
  if (folder / MANIFEST_FILE).read_bytes() is None:
    return None
  try:
    store = open_store(folder)
    store.verify()
  except InputError as error:
    tell_of_damage("store", error)
    return None
  return store
