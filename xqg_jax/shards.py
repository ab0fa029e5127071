"""One shard of an embedding store: its files, written and read with checksums.

    shard-00000/
      passages          zarr3 [rows, dim]
      query_sums        zarr3 [rows, groups, dim]   only with generated queries
      query_counts      zarr3 [rows, groups] int32  only with generated queries
      passage_ids.txt   one id a line
      shard.json        rows and checksums

A shard is written under a temporary name and renamed. Every array carries
the SHA-256 of its values in C order.
"""

import dataclasses
import hashlib
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import tensorstore
from jaxtyping import Float, Int32

from xqg_jax.errors import InputError
from xqg_jax.files import atomic_path, read_json, sha256_file, write_json

SHARD_FILE = "shard.json"
IDS_FILE = "passage_ids.txt"
DTYPES = {
  "float32": np.dtype(np.float32),
  "bfloat16": np.dtype(ml_dtypes.bfloat16),
  "float16": np.dtype(np.float16),
}
# Chunks of about this many bytes: few files, and no read is much too large.
_CHUNK_BYTES = 32 * 2**20


@dataclasses.dataclass(frozen=True)
class ShardArrays:
  """The contents of one shard; the query arrays come together or not at all."""

  passage_ids: Sequence[str]
  passages: Float[np.ndarray, "rows dim"]
  query_sums: Float[np.ndarray, "rows groups dim"] | None = None
  query_counts: Int32[np.ndarray, "rows groups"] | None = None


# -------------------------------------------------------------------- writing


def shard_name(index: int) -> str:
  """Folder of the shard with this number.

  >>> shard_name(7)
  'shard-00007'
  """
  return f"shard-{index:05d}"


def write_shard(
  folder: pathlib.Path, index: int, arrays: ShardArrays, *, dtype: str
) -> dict[str, Any]:
  """Writes one shard, all of it or nothing.

  Args:
    folder: the store's folder.
    index: number of the shard.
    arrays: its contents, vectors in float32.
    dtype: a key of `DTYPES`; vectors are rounded to it.

  Returns:
    The shard's record for the manifest: name, rows, checksums.

  Raises:
    InputError: a value that is not finite after rounding (the message names
      the passage), or an id with a line break in it.
  """
  by_name = {
    "passages": _round(arrays.passages, arrays.passage_ids, dtype),
    "query_sums": _round(arrays.query_sums, arrays.passage_ids, dtype),
    "query_counts": arrays.query_counts,
  }
  by_name = {name: a for name, a in by_name.items() if a is not None}
  name = shard_name(index)
  shutil.rmtree(folder / name, ignore_errors=True)  # a damaged one
  with atomic_path(folder / name) as partial:
    for array_name, array in by_name.items():
      _write_array(partial / array_name, array)
    _write_ids(partial / IDS_FILE, arrays.passage_ids)
    digests = {n: _array_digest(a) for n, a in by_name.items()}
    digests["passage_ids"] = sha256_file(partial / IDS_FILE)
    record = {
      "name": name,
      "rows": len(arrays.passage_ids),
      "sha256": digests,
    }
    write_json(partial / SHARD_FILE, record)
  return record


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


def _write_ids(path: pathlib.Path, passage_ids: Sequence[str]) -> None:
  for passage_id in passage_ids:
    if not passage_id or "\n" in passage_id or "\r" in passage_id:
      raise InputError(
        f"passage id {passage_id!r} is empty or has a line break in it",
        mend="give the passage an id of one line",
      )
  path.write_text("".join(f"{i}\n" for i in passage_ids), encoding="utf-8")


# --------------------------------------------------------------------- arrays


def _array_digest(array: np.ndarray) -> str:
  flat = np.ascontiguousarray(array).reshape(-1)
  return hashlib.sha256(flat.view(np.uint8)).hexdigest()


def _write_array(path: pathlib.Path, array: np.ndarray) -> None:
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
  spec = {**_array_spec(path), "metadata": metadata}
  try:
    tensorstore.open(spec, create=True).result().write(array).result()
  except ValueError as error:  # what TensorStore raises for a full disk
    raise InputError(
      f"cannot be written ({error})",
      where=path,
      mend="make room and run the same command again",
    ) from None


def _array_spec(path: pathlib.Path) -> dict[str, Any]:
  kvstore = {"driver": "file", "path": str(path)}
  return {"driver": "zarr3", "kvstore": kvstore}


def read_array(path: pathlib.Path) -> np.ndarray:
  """Reads an array without comparing its checksum.

  Raises:
    InputError: the array is missing or cut off.
  """
  try:
    array = tensorstore.open(_array_spec(path), open=True, read=True).result()
    return array.read().result()
  except ValueError as error:  # what TensorStore raises for damaged files
    raise _damaged(path, f"cannot be read ({error})") from None


def _damaged(path: pathlib.Path, what: str) -> InputError:
  return InputError(
    what, where=path, mend="run the same encode command again to mend it"
  )


def read_shard_record(
  folder: pathlib.Path, index: int
) -> dict[str, Any] | None:
  """The record of a finished, undamaged shard; None where there is none."""
  shard = folder / shard_name(index)
  if not shard.exists():
    return None
  try:
    record = read_json(shard / SHARD_FILE)
    check_shard(folder, record)
  except (InputError, KeyError, TypeError):
    return None
  return record


def check_shard(folder: pathlib.Path, record: Mapping[str, Any]) -> None:
  """Reads everything in a shard and compares the checksums.

  Raises:
    InputError: a damaged or missing array; the message names it.
  """
  for name in record["sha256"]:
    read_checked(folder, record, name)


def read_checked(
  folder: pathlib.Path, record: Mapping[str, Any], name: str
) -> Any:
  """Reads one array, or the ids, of a shard and compares its checksum.

  Raises:
    InputError: the array is missing or damaged.
  """
  path = folder / record["name"] / name
  if name == "passage_ids":
    path = path.with_name(IDS_FILE)
    if not path.exists() or sha256_file(path) != record["sha256"][name]:
      raise _damaged(path, "is missing or differs from its checksum")
    return path.read_text(encoding="utf-8").split("\n")[:-1]
  array = read_array(path)
  if _array_digest(array) != record["sha256"][name]:
    raise _damaged(path, "differs from its checksum")
  return array
