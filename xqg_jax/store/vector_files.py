"""Vectors from .npy and parquet files, in blocks, with their ids."""

import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float32

from xqg_jax.errors import InputError
from xqg_jax.io.files import import_pyarrow, read_lines
from xqg_jax.io.local_copies import copy_here
from xqg_jax.io.paths import Path, to_path

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
Part = tuple[list[str], Float32[np.ndarray, "rows dim"]]


def list_vector_files(path: Path) -> list[Path]:
  """The .npy or parquet files at a path, in the order of their names.

  Raises:
    InputError: there are none, or they are pickles.
  """
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


def _read_start(path: Path) -> bytes:
  with path.open("rb") as file:
    return file.read(6)


def _refuse_pickle(path: Path, start: bytes, names: str) -> None:
  if path.suffix == ".npz":
    raise InputError(
      "an .npz holds several arrays",
      where=path,
      mend="save the vectors alone by numpy.save, as .npy",
    )
  if path.suffix in _PICKLE_SUFFIXES or start.startswith(_PICKLE_STARTS):
    raise InputError(
      "a pickle is not opened",
      where=path,
      mend=_CONVERSION.format(names=names),
    )


def choose_reader(
  files: list[Path],
  passage_ids: str | os.PathLike | None,
  columns: tuple[str, str],
  size: int,
) -> Callable[[], Iterator[Part]]:
  """What reads all parts, as often as it is called."""
  if passage_ids is not None and not to_path(passage_ids).is_file():
    raise InputError(
      "no such file", where=passage_ids, mend="check PASSAGE_IDS"
    )
  if files[0].suffix == ".npy":
    return functools.partial(_read_npy, files[0], passage_ids, size)
  return functools.partial(_read_parquet, files, columns, size)


def _read_npy(
  path: Path, passage_ids: str | os.PathLike | None, size: int
) -> Iterator[Part]:
  try:
    array = np.load(copy_here(path), mmap_mode="r", allow_pickle=False)
  except (ValueError, OSError) as error:
    raise InputError(
      f"cannot be read ({error})",
      where=path,
      mend="save it by numpy.save, as an array of numbers",
    ) from None
  if array.ndim != 2 or not len(array) or array.dtype.kind != "f":
    raise InputError(
      f"an array {array.shape} of {array.dtype} is not a list of vectors",
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
  files: list[Path], columns: tuple[str, str], size: int
) -> Iterator[Part]:
  ids: list[str] = []
  waiting: list[np.ndarray] = []
  for path in files:
    for new_ids, vectors in _read_batches(path, columns, size):
      if waiting and vectors.shape[1] != waiting[0].shape[1]:
        raise InputError(
          f"vectors of {vectors.shape[1]} dimensions come after vectors of "
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
  path: Path, columns: tuple[str, str], size: int
) -> Iterator[Part]:
  arrow, parquet = import_pyarrow()
  row = 0
  try:
    with parquet.ParquetFile(copy_here(path)) as file:
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


def _to_ids(column: Any, path: Path, first_row: int) -> list[str]:
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
  column: Any, name: str, path: Path
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
