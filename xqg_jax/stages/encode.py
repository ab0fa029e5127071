"""Stage `encode`: passages and generated queries to an embedding store.

A passage's queries are encoded in packed rows and summed on the device. The
store is written shard by shard, the same bytes whether the run was
interrupted or not.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any, Literal

from xqg_jax.checkpoints import load_dual_encoder
from xqg_jax.data.collection import scan_collection
from xqg_jax.data.generated_queries import list_shards
from xqg_jax.data.passages import list_passage_files
from xqg_jax.encoding.embedder import Embedder, check_compute_dtype
from xqg_jax.encoding.job import EncodingJob, make_groups
from xqg_jax.errors import InputError
from xqg_jax.io.claims import RUN_FILE, claim_output_dir
from xqg_jax.io.files import describe_files
from xqg_jax.io.locations import Location
from xqg_jax.io.shard_job import Turn
from xqg_jax.io.shared_claims import claim_together
from xqg_jax.io.typed_json import Positive
from xqg_jax.models.dual_encoder.config import DualEncoderConfig
from xqg_jax.models.dual_encoder.dual_encoder import DualEncoder
from xqg_jax.runtime.processes import is_first_process
from xqg_jax.store.shards import DTYPES
from xqg_jax.store.store import (
  EmbeddingStore,
  open_sound_store,
  open_store,
  write_manifest,
)

GROUPINGS = ((), ("language",), ("rank",), ("language", "rank"))


# ------------------------------------------------------------------ any texts


# ------------------------------------------------------------------ the stage


def encode(
  *,
  checkpoint_path: str | os.PathLike,
  passages: str | os.PathLike,
  output_dir: str | os.PathLike,
  generated_queries: str | os.PathLike | None = None,
  encoder: DualEncoderConfig | None = None,
  group_queries_by: Sequence[str] = (),
  dtype: Literal["float32", "bfloat16", "float16"] = "float32",
  compute_dtype: Literal["float32", "bfloat16"] = "float32",
  shard_size: Positive = 8192,
  row_lengths: Sequence[int] | None = None,
  tokens_per_batch: Positive | None = None,
) -> EmbeddingStore:
  """Encodes passages, and the sums of their generated queries, into a store.

  An interrupted run goes on at the first shard that is missing or damaged; a
  finished one is verified and opened. Several processes (`--distributed`) each
  make their own shards of one store, in a folder that all of them reach.

  Args:
    checkpoint_path: the dual encoder.
    passages: TSV or JSONL file, or a folder of such.
    output_dir: folder of the store, on disk or in a bucket (`gs://`).
    generated_queries: JSONL file, or folder of such, in any order and for any
      part of the passages; blank queries are left out.
    encoder: pooling, prefixes and lengths; the checkpoint's own when absent.
    group_queries_by: () keeps one sum per passage, ("language",) one per
      language, ("rank",) one per place in the list of each language,
      ("language", "rank") one per both.
    dtype: of the vectors on disk; they are summed in float32.
    compute_dtype: of the encoder's products and activations; "bfloat16" is
      faster wherever the processor multiplies it.
    shard_size: passages in a shard.
    row_lengths: row lengths to pack into; chosen by platform when absent.
    tokens_per_batch: size of a batch; chosen by platform when absent.

  Returns:
    The store.

  Raises:
    InputError: bad input (the message names file and line), a damaged
      checkpoint, or an output folder that holds something else.
  """
  group_by = _check_options(group_queries_by, dtype, compute_dtype, shard_size)
  inputs = _digest_inputs(passages, generated_queries)
  model = load_dual_encoder(
    checkpoint_path, config=encoder, dtype=compute_dtype
  )
  described = _describe(model) | {"compute_dtype": compute_dtype}
  folder = Location.of(output_dir)
  arguments = {
    "encoder": described,
    "inputs": inputs,
    "group_queries_by": group_by,
    "dtype": dtype,
    "shard_size": shard_size,
  }
  if (folder / RUN_FILE).read_bytes() is not None:
    claim_output_dir(folder, stage="encode", arguments=arguments)
    if (finished := open_sound_store(folder)) is not None:
      return finished
  collection = scan_collection(passages, generated_queries)
  with claim_together(folder, stage="encode", arguments=arguments):
    job = EncodingJob(
      folder=folder,
      embedder=Embedder(model),
      collection=collection,
      groups=make_groups(collection, group_by),
      shard_size=min(shard_size, collection.num_passages),
      dtype=dtype,
      row_lengths=row_lengths,
      tokens_per_batch=tokens_per_batch,
      turn=Turn.of_this_process(),
    )
    records = job.run()
    if is_first_process():
      write_manifest(
        folder,
        shards=records,
        dim=model.dim,
        dtype=dtype,
        encoder=described,
        groups=job.groups,
        inputs=inputs,
      )
  return open_store(folder)


def _check_options(
  group_queries_by: Sequence[str],
  dtype: str,
  compute_dtype: str,
  shard_size: int,
) -> tuple[str, ...]:
  group_by = tuple(group_queries_by)
  if group_by not in GROUPINGS:
    raise InputError(
      f"cannot group queries by {group_by}",
      mend=f"use one of {', '.join(map(str, GROUPINGS))}",
    )
  if dtype not in DTYPES:
    raise InputError(
      f"unknown dtype {dtype!r}", mend=f"use one of {', '.join(DTYPES)}"
    )
  check_compute_dtype(compute_dtype)
  if shard_size < 1:
    raise InputError(f"shard_size is {shard_size}", mend="use 1 or more")
  return group_by


def _digest_inputs(
  passages: str | os.PathLike, generated_queries: str | os.PathLike | None
) -> dict[str, Any]:
  """Names and checksums of the input files."""
  inputs = {"passages": describe_files(list_passage_files(passages))}
  if generated_queries is not None:
    shards = list_shards(generated_queries)
    inputs["generated_queries"] = describe_files(shards)
  return inputs


def _describe(model: DualEncoder) -> dict[str, Any]:
  return {
    "fingerprint": model.fingerprint,
    "config": dataclasses.asdict(model.config),
    "tokenizer_fingerprint": model.tokenizer.fingerprint,
  }
