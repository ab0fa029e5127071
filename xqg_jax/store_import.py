"""`xqg store import`: a store from vectors that other programs made."""

import functools
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import tqdm
from jaxtyping import Float32

from xqg_jax.checkpoints import load_dual_encoder
from xqg_jax.errors import InputError
from xqg_jax.files import (
  claim_output_dir,
  lock_folder,
  read_lines,
  sha256_file,
)
from xqg_jax.models.dual_encoder import DualEncoderConfig
from xqg_jax.seen_ids import SeenIds
from xqg_jax.shards import DTYPES, ShardArrays, read_shard_record, write_shard
from xqg_jax.store import EmbeddingStore, open_store, write_manifest
from xqg_jax.store_export import import_pyarrow
from xqg_jax.vector_checks import check_vectors

# What files of Python's pickle, and of torch, begin with.
_PICKLE_STARTS = (b"\x80", b"PK\x03\x04")
_PICKLE_SUFFIXES = (".pkl", ".pickle", ".pt", ".bin")
_NPY_START = b"\x93NUMPY"
_CONVERSION = (
  "pickles run code when they are opened, so convert it where it was made: "
  "python -c \"import glob, pickle, numpy; parts = [pickle.load(open(f, 'rb')) "
  "for f in sorted(glob.glob('{names}'))]; numpy.save('vectors.npy', "
  "numpy.concatenate([v for v, _ in parts])); open('ids.txt', 'w').writelines("
  'str(i) + chr(10) for _, ids in parts for i in ids)", then give VECTORS='
  "vectors.npy and PASSAGE_IDS=ids.txt"
)

_Part = tuple[list[str], Float32[np.ndarray, "rows dim"]]


def import_vectors(
  *,
  vectors: str | os.PathLike,
  output_dir: str | os.PathLike,
  passage_ids: str | os.PathLike | None = None,
  checkpoint_path: str | os.PathLike | None = None,
  encoder: DualEncoderConfig | None = None,
  id_column: str = "passage_id",
  vector_column: str = "embedding",
  dtype: Literal["float32", "bfloat16", "float16"] = "float32",
  shard_size: int = 8192,
) -> EmbeddingStore:
  """Makes a store of passage vectors from an .npy file or from parquet.

  Args:
    vectors: `.npy` of shape [passages, dim], or a parquet file or folder.
    output_dir: folder of the store; an interrupted run goes on.
    passage_ids: text file with one id a line, for `.npy`.
    checkpoint_path: the dual encoder that made the vectors, so that `search`
      can tell whether questions are encoded by the same; None: unknown.
    encoder: pooling, prefixes and lengths, where the checkpoint has none.
    id_column: of parquet.
    vector_column: of parquet: lists of numbers, all of one length.
    dtype: of the vectors on disk.
    shard_size: passages in a shard.

  Returns:
    The store.

  Raises:
    InputError: a pickle, a malformed file, an id that is missing or stands
      twice, or a value that is not finite. No bad input claims the folder.
  """
  if dtype not in DTYPES:
    raise InputError(
      f"unknown dtype {dtype!r}", mend=f"use one of {', '.join(DTYPES)}"
    )
  files = _list_files(pathlib.Path(vectors))
  columns = (id_column, vector_column)
  read = _choose_reader(files, passage_ids, columns, shard_size)
  dim = _check_parts(read(), pathlib.Path(vectors))
  inputs = [{"name": f.name, "sha256": sha256_file(f)} for f in files]
  identity = {"fingerprint": "unknown", "config": None}
  if checkpoint_path is not None:
    model = load_dual_encoder(checkpoint_path, config=encoder)
    identity["fingerprint"] = model.fingerprint
  folder = claim_output_dir(
    output_dir,
    stage="store import",
    arguments={
      "vectors": inputs,
      "passage_ids": passage_ids and sha256_file(passage_ids),
      "columns": columns,
      "encoder": identity,
      "dtype": dtype,
      "shard_size": shard_size,
    },
  )
  with lock_folder(folder):
    write_manifest(
      folder,
      shards=_write_shards(folder, read(), dtype),
      dim=dim,
      dtype=dtype,
      encoder=identity,
      groups=[],
      inputs={"vectors": inputs},
    )
  return open_store(folder)


def _list_files(path: pathlib.Path) -> list[pathlib.Path]:
  if path.is_dir():
    files = sorted(path.glob("*.parquet"))
    for other in () if files else sorted(path.iterdir()):
      if other.is_file():
        _refuse_pickle(other, _read_start(other), f"*{other.suffix}")
  else:
    files = [path]
  if not files or not files[0].is_file():
    raise InputError(
      "no such file, or no .parquet in the folder",
      where=path,
      mend="check VECTORS",
    )
  start = _read_start(files[0])
  _refuse_pickle(files[0], start, files[0].name)
  is_npy = start == _NPY_START
  if is_npy != (files[0].suffix == ".npy") or not (
    is_npy or start.startswith(b"PAR1")
  ):
    raise InputError(
      "neither .npy nor parquet", where=files[0], mend="give one of the two"
    )
  return files


def _read_start(path: pathlib.Path) -> bytes:
  with path.open("rb") as file:
    return file.read(6)


def _refuse_pickle(path: pathlib.Path, start: bytes, names: str) -> None:
  if path.suffix in _PICKLE_SUFFIXES or start.startswith(_PICKLE_STARTS):
    raise InputError(
      "a pickle is not opened",
      where=path,
      mend=_CONVERSION.format(names=names),
    )


def _choose_reader(
  files: list[pathlib.Path],
  passage_ids: str | os.PathLike | None,
  columns: tuple[str, str],
  size: int,
) -> Callable[[], Iterator[_Part]]:
  """What reads all parts, as often as it is called."""
  if passage_ids is not None and not pathlib.Path(passage_ids).is_file():
    raise InputError(
      "no such file", where=passage_ids, mend="check PASSAGE_IDS"
    )
  if files[0].suffix == ".npy":
    return functools.partial(_read_npy, files[0], passage_ids, size)
  return functools.partial(_read_parquet, files, columns, size)


def _read_npy(
  path: pathlib.Path, passage_ids: str | os.PathLike | None, size: int
) -> Iterator[_Part]:
  try:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
  except (ValueError, OSError) as error:
    raise InputError(
      f"cannot be read ({error})",
      where=path,
      mend="save it by numpy.save, as an array of numbers",
    ) from None
  if array.ndim != 2 or not len(array) or array.dtype.kind != "f":
    raise InputError(
      f"an array {array.shape} of {array.dtype} is no list of vectors",
      where=path,
      mend="save one of shape [passages, dim] in float32 or float16",
    )
  if passage_ids is None:
    raise InputError(
      "an .npy has no ids", where=path, mend="give PASSAGE_IDS, one a line"
    )
  ids = [line for _, line in read_lines(passage_ids)]
  if len(ids) != len(array):
    raise InputError(
      f"{len(ids)} ids for {len(array)} vectors",
      where=passage_ids,
      mend="give one id a line, in the order of the vectors",
    )
  for start in range(0, len(array), size):
    vectors = np.asarray(array[start : start + size], np.float32)
    yield ids[start : start + size], vectors


def _read_parquet(
  files: list[pathlib.Path], columns: tuple[str, str], size: int
) -> Iterator[_Part]:
  ids: list[str] = []
  waiting: list[np.ndarray] = []
  for path in files:
    for new_ids, vectors in _read_batches(path, columns, size):
      if waiting and vectors.shape[1] != waiting[0].shape[1]:
        raise InputError(
          f"vectors of {vectors.shape[1]} dimensions follow such of "
          f"{waiting[0].shape[1]}",
          where=path,
          mend="give vectors of one length",
        )
      ids, waiting = ids + new_ids, [*waiting, vectors]
      if len(ids) >= size:
        joined = np.concatenate(waiting)
        yield ids[:size], joined[:size]
        ids, waiting = ids[size:], [joined[size:]]
  if ids:
    yield ids, np.concatenate(waiting)


def _read_batches(
  path: pathlib.Path, columns: tuple[str, str], size: int
) -> Iterator[_Part]:
  arrow, parquet = import_pyarrow()
  row = 0
  try:
    with parquet.ParquetFile(path) as file:
      missing = [n for n in columns if n not in file.schema_arrow.names]
      if missing:
        raise InputError(
          f"no column {missing[0]!r}",
          where=path,
          mend="set ID_COLUMN and VECTOR_COLUMN",
        )
      for batch in file.iter_batches(size, columns=list(columns)):
        ids, lists = (batch.column(name) for name in columns)
        yield _to_ids(ids, path, row), _to_vectors(lists, columns[1], path)
        row += len(batch)
  except (arrow.ArrowException, OSError) as error:
    raise InputError(
      f"cannot be read ({error})", where=path, mend="write it again"
    ) from None


def _to_ids(column: Any, path: pathlib.Path, first_row: int) -> list[str]:
  ids = column.to_pylist()
  for row, passage_id in enumerate(ids, start=first_row):
    if not isinstance(passage_id, str | int):
      raise InputError(
        f"the id of row {row}, counted from 0, is {passage_id!r}",
        where=path,
        mend="give every passage a string or a whole number",
      )
  return list(map(str, ids))


def _to_vectors(
  column: Any, name: str, path: pathlib.Path
) -> Float32[np.ndarray, "rows dim"]:
  is_list = hasattr(column, "value_lengths") and not column.null_count
  if is_list and len(column.value_lengths().unique()) == 1:
    flat = column.flatten().to_numpy(zero_copy_only=False)
    if flat.dtype.kind in "fiu":
      return flat.reshape(len(column), -1).astype(np.float32)
  raise InputError(
    f"{name!r} does not hold lists of numbers that are all of one length",
    where=path,
    mend="give every passage a vector of one length",
  )


def _check_parts(parts: Iterator[_Part], path: pathlib.Path) -> int:
  """Reads all input once and finds it sound; returns the vectors' dimension."""
  seen, row, dim = SeenIds(), 0, 0
  for ids, vectors in tqdm.tqdm(parts, desc="check input", unit=" parts"):
    for passage_id in ids:
      if not passage_id or "\n" in passage_id or "\r" in passage_id:
        raise InputError(
          f"passage id {passage_id!r} is empty or has a line break in it",
          where=path,
          mend="give the passage an id of one line",
        )
      if not seen.add(passage_id):
        raise InputError(
          f"passage id {passage_id!r} stands twice",
          where=path,
          mend="make ids unique",
        )
    check_vectors(vectors, f"{path}: vector", first_row=row)
    row, dim = row + len(ids), vectors.shape[1]
  if not dim:
    raise InputError("no vectors in it", where=path, mend="check VECTORS")
  return dim


def _write_shards(
  folder: pathlib.Path, parts: Iterator[_Part], dtype: str
) -> list[dict]:
  records = []
  progress = tqdm.tqdm(desc="import", unit=" passages")
  for index, (ids, vectors) in enumerate(parts):
    record = read_shard_record(folder, index)
    if record is None:
      arrays = ShardArrays(ids, vectors)
      record = write_shard(folder, index, arrays, dtype=dtype)
    records.append(record)
    progress.update(len(ids))
  progress.close()
  return records
