"""Embedding stores of a few given vectors."""

import pathlib

from xqg_jax.io import shard_job
from xqg_jax.io.locations import Location
from xqg_jax.store.shards import StoreShards, write_shards
from xqg_jax.store.store import write_manifest

ONE_SUM = [{"language": None, "rank": None}]


def write_store(
  folder, *parts, groups=None, encoder="e", dtype="float32", inputs=None
):
  """Writes a shard for each part, and the manifest.

  Args:
    folder: path or URL.
    *parts: `ShardArrays`; at least one.
    groups: of the query sums; one of all when absent, if there are any.
    encoder: the dual encoder's fingerprint.
    dtype: on disk.
    inputs: fingerprints of the inputs.

  Returns:
    The folder.
  """
  if isinstance(folder, pathlib.Path):
    folder.mkdir(parents=True, exist_ok=True)
  if groups is None:
    groups = [] if parts[0].query_sums is None else ONE_SUM
  records = write_shards(folder, lambda: parts, dtype=dtype, task="write")
  write_manifest(
    folder,
    shards=records,
    dim=parts[0].passages.shape[1],
    dtype=dtype,
    encoder={"fingerprint": encoder},
    groups=groups,
    inputs=inputs or {},
  )
  return folder


def read_record(folder, index):
  """The record of a store's shard; None where it is missing or damaged."""
  job = StoreShards()
  job.folder, job.task = Location.of(folder), "read"
  return shard_job.read_record(job, index)
