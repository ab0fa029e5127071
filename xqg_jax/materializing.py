"""Vectors made on the fly, written down as a store of their own."""

import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import tqdm

from xqg_jax.files import lock_folder
from xqg_jax.shards import ShardArrays, read_shard_record, write_shard
from xqg_jax.store import EmbeddingStore, open_store, write_manifest

Blocks = Callable[[int], Iterable[tuple[int, np.ndarray]]]


def materialize_vectors(
  blocks: Blocks,
  source: EmbeddingStore,
  folder: pathlib.Path,
  *,
  augmentation: Mapping[str, Any],
) -> EmbeddingStore:
  """Writes a store with one vector a passage, shard by shard.

  Args:
    blocks: yields (first row, vectors) for a size of block.
    source: the store that the vectors were made from; passages, shards, dtype
      and encoder are its own.
    folder: of the new store.
    augmentation: how they were made, for the manifest.

  Returns:
    The new store.

  Raises:
    InputError: a damaged source, or a value that is not finite.
  """
  shard_size = source.manifest["shards"][0]["rows"]
  dtype = source.manifest["dtype"]
  records = []
  with lock_folder(folder):
    progress = tqdm.tqdm(total=source.num_passages, unit=" passages")
    parts = zip(
      blocks(shard_size), _cut(source.passage_ids, shard_size), strict=True
    )
    for index, ((_, vectors), ids) in enumerate(parts):
      record = read_shard_record(folder, index)
      if record is None:
        arrays = ShardArrays(ids, vectors)
        record = write_shard(folder, index, arrays, dtype=dtype)
      records.append(record)
      progress.update(len(ids))
    progress.close()
    write_manifest(
      folder,
      shards=records,
      dim=source.dim,
      dtype=dtype,
      encoder=source.manifest["encoder"],
      groups=[],
      inputs={"store": source.fingerprint, "augmentation": dict(augmentation)},
    )
  return open_store(folder)


def _cut(items: list[str], size: int) -> Iterator[list[str]]:
  return (items[i : i + size] for i in range(0, len(items), size))
