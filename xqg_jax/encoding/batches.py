"""Batches of packed texts: their shapes, and where the texts' vectors go."""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int, Int32

from xqg_jax.models.dual_encoder.config import Side
from xqg_jax.runtime import sharding
from xqg_jax.text.packing import PackedRows, pack_into_row_lengths

# A token costs about the same in rows of up to 192 tokens and more in longer
# ones. Short texts fill rows of 96 to 95 %, rows of 32 only to 80 %. Passages
# of some 100 tokens go best into rows of their length: no two fit into one.
_CPU_ROW_LENGTHS = (96, 112, 128, 192, 256, 384, 512)
# Accelerators prefer few shapes and large products.
_ACCELERATOR_ROW_LENGTHS = (128, 512)
# More tokens no longer fit a CPU core's caches, and were slower.
_TOKENS_PER_CORE = 512
_TOKENS_PER_ACCELERATOR = 32_768
# Past the end of all rows that texts can be added to a second time.
_NO_MARK = np.iinfo(np.int32).max


@dataclasses.dataclass(frozen=True)
class Batch:
  """Rows of one fixed shape, and where their texts go.

  Attributes:
    rows: the packed texts.
    slots: for each text the entry of `targets` it belongs to; past the end
      where there is no text.
    targets: rows of the result, each at most once; past its end where unused.
    side: what the texts are; None where that does not matter.
    marks: for each text a second row that it is added to, among few; past
      their end where there is none. None: no text has one.
  """

  rows: PackedRows
  slots: Int32[np.ndarray, "rows num_segments"]
  targets: Int32[np.ndarray, " texts"]
  side: Side | None
  marks: Int32[np.ndarray, "rows num_segments"] | None = None


def choose_rows_per_batch(
  *,
  max_length: int,
  mesh: Mesh,
  row_lengths: Sequence[int] | None = None,
  tokens_per_batch: int | None = None,
  max_tokens: int | None = None,
) -> dict[int, int]:
  """Chooses the shapes of batches, one for each row length.

  Args:
    max_length: tokens of the longest text that can come.
    mesh: the devices; a batch is divided among them.
    row_lengths: row lengths to use instead of the platform's own.
    tokens_per_batch: tokens in a batch instead of the platform's own.
    max_tokens: tokens that can come at all, if known; for a single question
      the batch is a single row.

  Returns:
    Row length -> rows in a batch, a multiple of the size of the axis `data`.
  """
  is_cpu = mesh.devices.flat[0].platform == "cpu"
  num_devices: int = mesh.shape[sharding.DATA]
  if row_lengths is None:
    row_lengths = _CPU_ROW_LENGTHS if is_cpu else _ACCELERATOR_ROW_LENGTHS
  if tokens_per_batch is None:
    on_cpu = _TOKENS_PER_CORE * _count_cores()
    on_accelerators = _TOKENS_PER_ACCELERATOR * num_devices
    tokens_per_batch = on_cpu if is_cpu else on_accelerators
  if max_tokens is not None:
    tokens_per_batch = min(tokens_per_batch, max_tokens)
  lengths = sorted(n for n in row_lengths if n < max_length)
  lengths += [min([n for n in row_lengths if n >= max_length] or [max_length])]
  return {
    length: num_devices * max(1, tokens_per_batch // (length * num_devices))
    for length in lengths
  }


def _count_cores() -> int:
  """Cores that this process may use, of which `taskset` gives it fewer."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1  # macOS


def make_batches(
  token_lists: Sequence[Int32[np.ndarray, " _"]],
  targets: Int[np.ndarray, " texts"],
  *,
  num_targets: int,
  rows_per_batch: Mapping[int, int],
  pad_id: int,
  side: Side | None = None,
  marks: Int[np.ndarray, " texts"] | None = None,
) -> list[Batch]:
  """Packs texts into batches.

  Args:
    token_lists: the tokens of each text.
    targets: for each text the row of the result that it is added to.
    num_targets: rows of the result.
    rows_per_batch: what `choose_rows_per_batch` returned.
    pad_id: token id of padding.
    side: what the texts are; None will do where queries and passages share
      their parameters, and lets them share rows.
    marks: for each text a second row, as `Batch` has it.
  """
  packed = pack_into_row_lengths(
    token_lists, rows_per_batch=rows_per_batch, pad_id=pad_id
  )
  return [
    _add_targets(batch, targets, num_targets, side, marks)
    for row_length, rows in packed.items()
    for batch in _cut(rows, rows_per_batch[row_length], pad_id)
  ]


def _cut(rows: PackedRows, num_rows: int, pad_id: int) -> Iterator[PackedRows]:
  for start in range(0, rows.num_rows, num_rows):
    yield rows.take(start, num_rows, pad_id=pad_id)


def _add_targets(
  rows: PackedRows,
  targets: np.ndarray,
  num_targets: int,
  side: Side | None,
  marks: np.ndarray | None,
) -> Batch:
  owners = rows.owners.reshape(-1)
  has_text = owners >= 0
  if marks is not None:
    of_slots = np.full(owners.shape, _NO_MARK, np.int32)
    of_slots[has_text] = marks[owners[has_text]]
    marks = of_slots.reshape(rows.owners.shape)
  used, slots_of_texts = np.unique(
    targets[owners[has_text]], return_inverse=True
  )
  slots = np.full(owners.shape, owners.size, np.int32)
  slots[has_text] = slots_of_texts
  # Unused entries point past the end, each elsewhere: no target appears twice.
  all_targets = num_targets + np.arange(owners.size, dtype=np.int32)
  all_targets[: len(used)] = used
  slots = slots.reshape(rows.owners.shape)
  return Batch(rows, slots, all_targets, side, marks)
