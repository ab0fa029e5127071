"""Stage `store import`: a store from vectors that other programs made."""

import itertools
import os
import warnings
from collections.abc import Iterator
from typing import Literal

from xqg_jax.checkpoints import load_dual_encoder
from xqg_jax.data.ids import SeenIds, check_id
from xqg_jax.errors import InputError
from xqg_jax.io.claims import claim_output_dir, lock_folder
from xqg_jax.io.files import describe_files, sha256_file
from xqg_jax.io.paths import Path, to_path
from xqg_jax.io.progress import Progress
from xqg_jax.io.typed_json import Positive
from xqg_jax.models.dual_encoder.config import DualEncoderConfig
from xqg_jax.store.shards import DTYPES, ShardArrays, write_shards
from xqg_jax.store.store import (
  UNKNOWN_ENCODER,
  EmbeddingStore,
  open_sound_store,
  open_store,
  write_manifest,
)
from xqg_jax.store.vector_checks import check_vectors
from xqg_jax.store.vector_files import Part, choose_reader, list_vector_files


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
  shard_size: Positive = 8192,
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
  files = list_vector_files(to_path(vectors))
  columns = (id_column, vector_column)
  read = choose_reader(files, passage_ids, columns, shard_size)
  dim = _check_parts(read(), to_path(vectors))
  inputs = describe_files(files)
  identity = {"fingerprint": UNKNOWN_ENCODER, "config": None}
  if checkpoint_path is not None:
    model = load_dual_encoder(checkpoint_path, config=encoder)
    identity["fingerprint"] = model.fingerprint
  else:
    warnings.warn(
      "without CHECKPOINT_PATH nobody knows which encoder made the vectors; "
      "they can be indexed and exported, not searched with questions",
      stacklevel=2,
    )
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
  if (finished := open_sound_store(folder)) is not None:
    return finished
  with lock_folder(folder):
    records = write_shards(
      folder,
      lambda: itertools.starmap(ShardArrays, read()),
      dtype=dtype,
      task="import",
    )
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


def _check_parts(parts: Iterator[Part], path: Path) -> int:
  """Reads all input once and finds it sound; returns the vectors' dimension."""
  seen, row, dim = SeenIds(), 0, 0
  for ids, vectors in Progress(parts, desc="check input", unit=" parts"):
    for passage_id in ids:
      if not seen.add(check_id(passage_id, "passage", path)):
        raise InputError(
          f"passage id {passage_id!r} appears twice",
          where=path,
          mend="make ids unique",
        )
    check_vectors(vectors, f"{path}: vector", first_row=row)
    row, dim = row + len(ids), vectors.shape[1]
  if not dim:
    raise InputError("no vectors in it", where=path, mend="check VECTORS")
  return dim
