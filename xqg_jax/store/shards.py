"""Shard of an embedding store: arrays with checksums, read and written.

    shard-00000/
      passages          zarr3 [rows, dim]
      query_sums        zarr3 [rows, groups, dim]   only with generated queries
      query_counts      zarr3 [rows, groups] int32  only with generated queries
      passage_ids.txt   one id a line
    finished/
      shard-00000.json  rows and checksums

On disk a shard is written under a temporary name and renamed; its record is
written last, and without it there is no shard. Every array carries the
SHA-256 of its values in C order.
"""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Annotated, Any, NotRequired, TypedDict

import ml_dtypes
import msgspec
import numpy as np
import tensorstore
from jaxtyping import Float, Int32

from xqg_jax.errors import InputError
from xqg_jax.io.locations import CONTEXT, Location, cannot_write
from xqg_jax.io.shard_job import Raw, Record, ShardJob, Work, run_shards
from xqg_jax.io.typed_json import Count

IDS_FILE = "passage_ids.txt"
DTYPES = {
  "float32": np.dtype(np.float32),
  "bfloat16": np.dtype(ml_dtypes.bfloat16),
  "float16": np.dtype(np.float16),
}
# Chunks of about this many bytes: few files, and no read is much too large.
_CHUNK_BYTES = 32 * 2**20


class ShardSums(TypedDict):
  """SHA-256 of the values of each array of a shard."""

  passages: str
  passage_ids: str
  query_sums: NotRequired[str]
  query_counts: NotRequired[str]


class ShardRecord(TypedDict):
  """Contents of `shard.json`, and a shard's entry in the manifest."""

  name: Annotated[str, msgspec.Meta(pattern=r"^shard-\d{5,}$")]
  rows: Count
  sha256: ShardSums


@dataclasses.dataclass(frozen=True)
class ShardArrays:
  """The contents of one shard; the query arrays come together or not at all."""

  passage_ids: Sequence[str]
  passages: Float[np.ndarray, "rows dim"]
  query_sums: Float[np.ndarray, "rows groups dim"] | None = None
  query_counts: Int32[np.ndarray, "rows groups"] | None = None


# -------------------------------------------------------------------- writing


class StoreShards(ShardJob[Raw, Work, Any]):
  """The shards of a store; `make` yields `ShardArrays`.

  Attributes:
    dtype: a key of `DTYPES`; vectors are rounded to it.
  """

  schema: type = ShardRecord
  dtype: str

  def name_shard(self, index: int) -> str:
    """Folder of the shard with this number."""
    return f"shard-{index:05d}"

  def replace(self, name: str) -> AbstractContextManager[Location]:
    """Yields the folder to write a shard to."""
    return (self.folder / name).replace()

  def write(self, place: Location, made: ShardArrays) -> Record:
    """Writes a shard's arrays; returns rows and checksums."""
    return write_arrays(place, made, dtype=self.dtype)

  def check(self, record: Record) -> None:
    """Compares all arrays of a shard with its record."""
    check_shard(self.folder, record)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _GivenShards(StoreShards[ShardArrays, ShardArrays]):
  """Shards of vectors that are there already."""

  folder: Location
  dtype: str
  parts: Callable[[], Iterable[ShardArrays]]
  num_shards: int | None
  total: int | None
  task: str

  def read(self) -> Iterable[ShardArrays]:
    return self.parts()


def write_shards(
  folder: str | os.PathLike,
  parts: Callable[[], Iterable[ShardArrays]],
  *,
  dtype: str,
  task: str,
  num_shards: int | None = None,
  num_passages: int | None = None,
) -> list[Record]:
  """Writes the shards that a store lacks, or that are damaged.

  Args:
    folder: the store's folder.
    parts: streams what each shard holds, vectors in float32.
    dtype: a key of `DTYPES`; vectors are rounded to it.
    task: for the progress line.
    num_shards: how many there are; counted when absent.
    num_passages: in all of them; for the progress line.

  Returns:
    The shards' records for the manifest: name, rows, checksums.

  Raises:
    InputError: a value that is not finite after rounding (the message names
      the passage), an id with a line break in it, or a full disk.
  """
  return run_shards(
    _GivenShards(
      folder=Location.of(folder),
      dtype=dtype,
      parts=parts,
      num_shards=num_shards,
      total=num_passages,
      task=task,
    )
  )


def write_arrays(place: Location, arrays: ShardArrays, *, dtype: str) -> Record:
  """Writes the files of one shard; returns rows and checksums.

  Raises:
    InputError: as `write_shards`.
  """
  by_name = {
    "passages": _round(arrays.passages, arrays.passage_ids, dtype),
    "query_sums": _round(arrays.query_sums, arrays.passage_ids, dtype),
    "query_counts": arrays.query_counts,
  }
  by_name = {name: a for name, a in by_name.items() if a is not None}
  ids = _join_ids(arrays.passage_ids)
  digests = {name: _array_digest(a) for name, a in by_name.items()}
  digests["passage_ids"] = hashlib.sha256(ids).hexdigest()
  for name, array in by_name.items():
    _write_array(place / name, array)
  (place / IDS_FILE).write_bytes(ids)
  return {"rows": len(arrays.passage_ids), "sha256": digests}


def _round(
  vectors: np.ndarray | None, passage_ids: Sequence[str], dtype: str
) -> np.ndarray | None:
  if vectors is None:
    return None
  with np.errstate(over="ignore"):  # found by the next lines
    rounded = vectors.astype(DTYPES[dtype])
  is_good = np.isfinite(rounded.reshape(len(rounded), -1)).all(axis=1)
  if not is_good.all():
    row = int(np.argmin(is_good))
    if np.isfinite(vectors[row]).all():
      mend = f"it is too large for {dtype}; use float32 or bfloat16"
    else:
      mend = "check the checkpoint for NaN"
    raise InputError(
      f"an embedding of passage {passage_ids[row]!r} is not finite", mend=mend
    )
  return rounded


def _join_ids(passage_ids: Sequence[str]) -> bytes:
  for passage_id in passage_ids:
    if not passage_id or "\n" in passage_id or "\r" in passage_id:
      raise InputError(
        f"passage id {passage_id!r} is empty or has a line break in it",
        mend="give the passage an id of one line",
      )
  return "".join(f"{i}\n" for i in passage_ids).encode()


# --------------------------------------------------------------------- arrays


def _array_digest(array: np.ndarray) -> str:
  flat = np.ascontiguousarray(array).reshape(-1)
  return hashlib.sha256(flat.view(np.uint8).data).hexdigest()


def _write_array(place: Location, array: np.ndarray) -> None:
  row_bytes = array.nbytes // len(array)
  rows = min(len(array), max(1, _CHUNK_BYTES // row_bytes))
  metadata = {
    "shape": list(array.shape),
    "data_type": str(array.dtype),
    "chunk_grid": {
      "name": "regular",
      "configuration": {"chunk_shape": [rows, *array.shape[1:]]},
    },
    "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
  }
  spec = {**_array_spec(place), "metadata": metadata}
  try:
    opened = tensorstore.open(spec, create=True, context=CONTEXT).result()
    opened.write(array).result()
  except ValueError as error:  # what TensorStore raises for a full disk
    raise cannot_write(place, error) from None


def _array_spec(place: Location) -> dict[str, Any]:
  return {"driver": "zarr3", "kvstore": place.kvstore()}


def read_array(place: Location) -> np.ndarray:
  """Reads an array without comparing its checksum.

  Raises:
    InputError: the array is missing or cut off.
  """
  try:
    array = tensorstore.open(
      _array_spec(place), open=True, read=True, context=CONTEXT
    ).result()
    return array.read().result()
  except ValueError as error:  # what TensorStore raises for damaged files
    raise _damaged(place, f"cannot be read ({error})") from None


def _damaged(where: Location, what: str) -> InputError:
  return InputError(
    what, where=where, mend="run the same encode command again to mend it"
  )


def check_shard(folder: Location, record: Mapping[str, Any]) -> None:
  """Reads everything in a shard; compares checksums and numbers of rows.

  Raises:
    InputError: a damaged or missing array; the message names it.
  """
  for name in record["sha256"]:
    read_checked(folder, record, name)


def read_checked(folder: Location, record: Mapping[str, Any], name: str) -> Any:
  """Reads one array, or the ids, of a shard; compares checksum and rows.

  Raises:
    InputError: the array is missing or damaged, or has not the rows noted.
  """
  place = folder / record["name"] / name
  if name == "passage_ids":
    values = _read_ids(folder / record["name"] / IDS_FILE, record)
  else:
    values = read_array(place)
    if _array_digest(values) != record["sha256"][name]:
      raise _damaged(place, "differs from its checksum")
  if len(values) != record["rows"]:
    raise _damaged(place, f"{len(values)} rows instead of {record['rows']}")
  return values


def _read_ids(file: Location, record: Mapping[str, Any]) -> list[str]:
  content = file.read_bytes() or b""
  if hashlib.sha256(content).hexdigest() != record["sha256"]["passage_ids"]:
    raise _damaged(file, "is missing or differs from its checksum")
  return content.decode().split("\n")[:-1]
