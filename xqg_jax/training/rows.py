"""Packing of a training batch's texts into few rows.

A padded batch has `query_tokens`, `passage_tokens` and
`negative_passage_tokens`, one text a row. A packed one has of either side

  query_tokens       [query rows, row length]
  query_segment_ids  1 for a row's first text, 2 for its second, 0 = padding
  query_positions    restart at 0 with each text
  query_slots        [queries]; the segment that holds the text, counted through
                     all rows; -1 where there is no text

and `passage_*` in the same way: passage `i * (1 + negatives)` is question i's
positive, those after it its hard negatives. Everything else passes unchanged.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Int, Int32, Shaped

from xqg_jax.errors import InputError
from xqg_jax.text.packing import PackedRows, get_num_segments, pack_texts

Arrays = Mapping[str, Shaped[np.ndarray, "..."]]

SIDES = ("query", "passage")
_ROWS = ("tokens", "segment_ids", "positions")
# Row counts come in so many steps at most: each is a program to compile.
_MAX_PROGRAMS = 16


def pack_batch(
  batch: Arrays,
  *,
  pad_id: int,
  row_lengths: Mapping[str, int],
  num_groups: int = 1,
  num_rows: Mapping[str, int] | None = None,
) -> dict[str, Shaped[np.ndarray, "..."]]:
  """Packs a padded batch.

  Args:
    batch: the padded batch.
    pad_id: token id of padding.
    row_lengths: tokens of a row of `query` and of `passage`.
    num_groups: the numbers of rows are multiples of it.
    num_rows: rows of either side; None: as many as it takes, rounded up to
      one of a few numbers.

  Raises:
    InputError: a row is too short for a text, or `num_rows` too few.
  """
  tokens = get_texts(batch)
  rest = {k: v for k, v in batch.items() if not k.endswith("_tokens")}
  for side, texts in tokens.items():
    packed, slots = _pack_texts_of(texts, pad_id, row_lengths[side])
    most = count_rows(texts.shape, row_lengths[side])
    count = _round_up(packed.num_rows, most, num_groups)
    if num_rows is not None:
      count = num_rows[side]
    if packed.num_rows > count:
      raise InputError(
        f"a batch takes {packed.num_rows} rows of {row_lengths[side]} {side} "
        f"tokens, and only {count} are given",
        mend=f"raise num_rows[{side!r}], or leave it out",
      )
    rows = packed.take(0, count, pad_id=pad_id)
    rest |= {f"{side}_{name}": getattr(rows, name) for name in _ROWS}
    rest[f"{side}_slots"] = slots
  return rest


def get_texts(batch: Arrays) -> dict[str, Int[np.ndarray, "texts length"]]:
  """The padded texts of either side, a query's passages one after another."""
  positives = batch["passage_tokens"][:, None]
  # [queries, 1, length], [queries, negatives, length] -> [passages, length]
  passages = np.concatenate(
    [positives, batch["negative_passage_tokens"]], axis=1
  )
  passages = passages.reshape(-1, passages.shape[-1])
  return {"query": batch["query_tokens"], "passage": passages}


def count_rows(shape: Sequence[int], row_length: int) -> int:
  """Rows that hold any texts of a shape, [texts, length].

  A row is closed only when less than a whole text fits in, so that it holds at
  least as many as go into it at full length.

  >>> count_rows((5, 12), 24), count_rows((5, 13), 24)
  (3, 5)

  Raises:
    InputError: a row is too short for a text.
  """
  num_texts, length = shape
  if row_length < length:
    raise InputError(
      f"rows of {row_length} tokens are too short for texts of {length}",
      mend=f"give rows of {length} or more",
    )
  a_row = min(row_length // length, get_num_segments(row_length))
  return -(-num_texts // a_row)


def _pack_texts_of(
  texts: Int[np.ndarray, "texts length"],
  pad_id: int,
  row_length: int,
) -> tuple[PackedRows, Int32[np.ndarray, " texts"]]:
  """Packs what is not all padding."""
  is_token = texts != pad_id
  lengths = texts.shape[1] - np.argmax(is_token[:, ::-1], axis=1)
  present = np.flatnonzero(is_token.any(axis=1))
  packed = pack_texts(
    [texts[i, : lengths[i]] for i in present],
    row_length=row_length,
    num_segments=get_num_segments(row_length),
    pad_id=pad_id,
  )
  owners = packed.owners.reshape(-1)
  slots = np.full(len(texts), -1, np.int32)
  segments = np.flatnonzero(owners >= 0)
  slots[present[owners[segments]]] = segments
  return packed, slots


def _round_up(count: int, most: int, num_groups: int) -> int:
  """Rounds up to a multiple of a sixteenth of what any batch can take.

  >>> _round_up(41, 64, 8), _round_up(61, 61, 1)
  (48, 61)
  """
  step = num_groups * max(1, -(-most // (_MAX_PROGRAMS * num_groups)))
  rounded = -(-count // step) * step
  return min(rounded, -(-most // num_groups) * num_groups)


def join_parts(batch: Arrays, *, part: int, num_parts: int) -> Arrays:
  """Makes the packed parts of a batch, one a process, fit together.

  All get the rows of the fullest, and slots count through the rows of all.
  Every process has to call it for the same step, in the same order of
  computations.

  Args:
    batch: this process's part; a padded one comes back as it is.
    part: its number (`sharding.find_batch_part`).
    num_parts: parts of the whole batch.
  """
  if num_parts == 1 or "query_slots" not in batch:
    return batch
  counts = np.array([len(batch[f"{side}_tokens"]) for side in SIDES])
  counts = multihost_utils.process_allgather(counts).max(axis=0)
  joined = dict(batch)
  for side, count in zip(SIDES, counts.tolist(), strict=True):
    joined |= _place_rows(batch, side, count, part)
  return joined


def _place_rows(
  batch: Arrays, side: str, count: int, part: int
) -> dict[str, np.ndarray]:
  """Adds empty rows up to `count`, and the rows of the processes before."""
  tokens = batch[f"{side}_tokens"]
  missing = ((0, count - len(tokens)), (0, 0))
  placed = {
    f"{side}_{name}": np.pad(batch[f"{side}_{name}"], missing) for name in _ROWS
  }
  slots = batch[f"{side}_slots"]
  before = part * count * get_num_segments(tokens.shape[1])
  placed[f"{side}_slots"] = np.where(slots >= 0, slots + before, slots)
  return placed
