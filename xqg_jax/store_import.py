"""`xqg store import`: a store from vectors that other programs made."""

import os
import pathlib
from collections.abc import Iterator
from typing import Literal

import numpy as np
import tqdm
from jaxtyping import Float

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

# What files of Python's pickle, and of torch, begin with.
_PICKLE_STARTS = (b"\x80", b"PK\x03\x04")
_NPY_START = b"\x93NUMPY"
_CONVERSION = (
  "pickles run code when they are opened, so convert it where it was made: "
  "python -c \"import pickle, numpy; v, ids = pickle.load(open('{name}', "
  "'rb')); numpy.save('vectors.npy', v); open('ids.txt', "
  "'w').writelines(str(i) + chr(10) for i in ids)\", then give VECTORS="
  "vectors.npy and PASSAGE_IDS=ids.txt"
)

_Part = tuple[list[str], Float[np.ndarray, "rows dim"]]


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
      twice, or a value that is not finite.
  """
  if dtype not in DTYPES:
    raise InputError(
      f"unknown dtype {dtype!r}", mend=f"use one of {', '.join(DTYPES)}"
    )
  files = _list_files(pathlib.Path(vectors))
  inputs = [{"name": f.name, "sha256": sha256_file(f)} for f in files]
  identity = {"fingerprint": "unknown", "config": None}
  if checkpoint_path is not None:
    model = load_dual_encoder(checkpoint_path, config=encoder)
    identity["fingerprint"] = model.fingerprint
  if files[0].suffix == ".npy":
    parts = _read_npy(files[0], passage_ids, shard_size)
  else:
    parts = _read_parquet(files, (id_column, vector_column), shard_size)
  folder = claim_output_dir(
    output_dir,
    stage="store import",
    arguments={
      "vectors": inputs,
      "passage_ids": passage_ids and sha256_file(passage_ids),
      "columns": [id_column, vector_column],
      "encoder": identity,
      "dtype": dtype,
      "shard_size": shard_size,
    },
  )
  with lock_folder(folder):
    records, dim = _write_shards(folder, parts, dtype)
    write_manifest(
      folder,
      shards=records,
      dim=dim,
      dtype=dtype,
      encoder=identity,
      groups=[],
      inputs={"vectors": inputs},
    )
  return open_store(folder)


def _list_files(path: pathlib.Path) -> list[pathlib.Path]:
  files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
  if not files or not files[0].is_file():
    raise InputError(
      "no such file, or no .parquet in the folder",
      where=path,
      mend="check VECTORS",
    )
  with files[0].open("rb") as file:
    start = file.read(6)
  is_pickle = files[0].suffix in (".pkl", ".pickle", ".pt", ".bin")
  if is_pickle or start.startswith(_PICKLE_STARTS):
    raise InputError(
      "a pickle is not opened",
      where=files[0],
      mend=_CONVERSION.format(name=files[0].name),
    )
  is_npy = start == _NPY_START
  if is_npy != (files[0].suffix == ".npy") or not (
    is_npy or start.startswith(b"PAR1")
  ):
    raise InputError(
      "neither .npy nor parquet", where=files[0], mend="give one of the two"
    )
  return files


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
    yield ids[start : start + size], array[start : start + size]


def _read_parquet(
  files: list[pathlib.Path], columns: tuple[str, str], size: int
) -> Iterator[_Part]:
  arrow, parquet = import_pyarrow()
  ids: list[str] = []
  waiting: list[np.ndarray] = []
  for path in files:
    try:
      with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(size, columns=list(columns)):
          part = _to_arrays(batch, columns, path)
          ids, waiting = ids + part[0], [*waiting, part[1]]
          if len(ids) >= size:
            joined = np.concatenate(waiting)
            yield ids[:size], joined[:size]
            ids, waiting = ids[size:], [joined[size:]]
    except (arrow.ArrowException, OSError) as error:
      raise InputError(
        f"cannot be read ({error})", where=path, mend="write it again"
      ) from None
  if ids:
    yield ids, np.concatenate(waiting)


def _to_arrays(batch, columns: tuple[str, str], path: pathlib.Path) -> _Part:
  missing = [name for name in columns if name not in batch.schema.names]
  if missing:
    raise InputError(
      f"no column {missing[0]!r}",
      where=path,
      mend="set ID_COLUMN and VECTOR_COLUMN",
    )
  ids, lists = (batch.column(name) for name in columns)
  flat = lists.flatten().to_numpy(zero_copy_only=False)
  if lists.null_count or not len(lists) or len(flat) % len(lists):
    raise InputError(
      f"the lists in {columns[1]!r} differ in length or are missing",
      where=path,
      mend="give every passage a vector of one length",
    )
  return [str(i) for i in ids.to_pylist()], flat.reshape(len(lists), -1)


def _write_shards(
  folder: pathlib.Path, parts: Iterator[_Part], dtype: str
) -> tuple[list[dict], int]:
  seen, records, dim = SeenIds(), [], 0
  progress = tqdm.tqdm(desc="import", unit=" passages")
  for index, (ids, vectors) in enumerate(parts):
    for passage_id in ids:
      if not seen.add(passage_id):
        raise InputError(
          f"passage id {passage_id!r} stands twice", mend="make ids unique"
        )
    dim = dim or vectors.shape[1]
    if vectors.shape[1] != dim:
      raise InputError(
        f"vectors of {vectors.shape[1]} dimensions follow such of {dim}",
        mend="give vectors of one length",
      )
    record = read_shard_record(folder, index)
    if record is None:
      arrays = ShardArrays(ids, np.asarray(vectors, np.float32))
      record = write_shard(folder, index, arrays, dtype=dtype)
    records.append(record)
    progress.update(len(ids))
  progress.close()
  return records, dim
