"""Packing of texts of any length into rows of one fixed length.

A row holds several texts. `segment_ids` keep them apart (attention stays
within equal ids, 0 is padding), `positions` restart at 0 with each text, and
`owners` say which text a segment is. Packed rows give the same embeddings as
texts encoded one by one, with next to no padding and one compiled shape.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int32

# A program of its own is worth compiling for so many batches.
_BATCHES_PER_PROGRAM = 16


@dataclasses.dataclass(frozen=True)
class PackedRows:
  """Texts in rows, ready for the encoder.

  Attributes:
    tokens: token ids, `pad_id` where no text is.
    segment_ids: 1 for a row's first text, 2 for its second, ...; 0 = padding.
    positions: position of the token in its own text; 0 in padding.
    owners: index of the text that segment `i + 1` of the row is; -1 = none.
  """

  tokens: Int32[np.ndarray, "rows length"]
  segment_ids: Int32[np.ndarray, "rows length"]
  positions: Int32[np.ndarray, "rows length"]
  owners: Int32[np.ndarray, "rows num_segments"]

  @property
  def num_rows(self) -> int:
    """Number of rows."""
    return self.tokens.shape[0]

  def take(self, start: int, num_rows: int, *, pad_id: int) -> "PackedRows":
    """Rows from `start` on, filled up with empty rows to `num_rows`."""
    fills = {"tokens": pad_id, "segment_ids": 0, "positions": 0, "owners": -1}
    parts = {}
    for name, fill in fills.items():
      part = getattr(self, name)[start : start + num_rows]
      missing = ((0, num_rows - len(part)), (0, 0))
      parts[name] = np.pad(part, missing, constant_values=fill)
    return PackedRows(**parts)


def pack_texts(
  token_lists: Sequence[Sequence[int] | Int32[np.ndarray, " _"]],
  *,
  row_length: int,
  num_segments: int,
  pad_id: int,
) -> PackedRows:
  """Packs texts into rows, longest first, each where it fits most tightly.

  The same texts in the same order always give the same rows.

  Args:
    token_lists: the tokens of each text; none may be empty.
    row_length: tokens in a row.
    num_segments: the most texts in a row.
    pad_id: token id of padding.

  Returns:
    As many rows as it takes.

  Raises:
    ValueError: a text is empty or longer than a row.

  >>> rows = pack_texts(
  ...   [[7, 8], [1, 2, 3]], row_length=5, num_segments=2, pad_id=0
  ... )
  >>> rows.tokens.tolist(), rows.segment_ids.tolist()
  ([[1, 2, 3, 7, 8]], [[1, 1, 1, 2, 2]])
  >>> rows.positions.tolist(), rows.owners.tolist()
  ([[0, 1, 2, 0, 1]], [[1, 0]])
  """
  lengths = _get_lengths(token_lists, row_length)
  order = np.argsort(-lengths, kind="stable").tolist()
  places, _ = _place(
    order, lengths.tolist(), (row_length, num_segments), len(order), 1
  )
  return _fill_rows(token_lists, places, (row_length, num_segments), pad_id)


def pack_into_row_lengths(
  token_lists: Sequence[Sequence[int] | Int32[np.ndarray, " _"]],
  *,
  rows_per_batch: Mapping[int, int],
  pad_id: int,
) -> dict[int, PackedRows]:
  """Packs texts into rows of a few lengths, for as many compiled programs.

  Texts go to the shortest row length that holds them. Shorter texts fill what
  is left free in the longer rows, and in the last batch of them, before they
  come to rows of their own.

  Args:
    token_lists: the tokens of each text; none may be empty.
    rows_per_batch: row length -> rows of a batch of that length.
    pad_id: token id of padding.

  Returns:
    Row length -> its rows, longest first; lengths without texts, or with
    too few to be worth a program, are left out.

  Raises:
    ValueError: a text is empty or longer than the longest row.

  >>> packed = pack_into_row_lengths(
  ...   [[7] * 3] * 24 + [[8] * 9], rows_per_batch={4: 1, 16: 1}, pad_id=0
  ... )
  >>> {length: len(rows.owners) for length, rows in packed.items()}
  {16: 1, 4: 23}
  >>> packed[16].owners.tolist()
  [[24, 0]]
  """
  lengths = _get_lengths(token_lists, max(rows_per_batch))
  left = np.argsort(-lengths, kind="stable").tolist()
  used = _choose_row_lengths(lengths, rows_per_batch)
  packed: dict[int, PackedRows] = {}
  for row_length, shorter in itertools.pairwise([*used, 0]):
    shape = row_length, get_num_segments(row_length)
    # `left` is sorted: the texts that need this row length come first.
    num_required = int((lengths[left] > shorter).sum()) if left else 0
    places, left = _place(
      left, lengths.tolist(), shape, num_required, rows_per_batch[row_length]
    )
    if places:
      packed[row_length] = _fill_rows(token_lists, places, shape, pad_id)
  return packed


def get_num_segments(row_length: int) -> int:
  """The most texts in a row: one for every eight tokens.

  Questions in the tokens of multilingual models are seldom shorter on
  average, and the width of the pooled output follows from it.
  """
  return max(1, row_length // 8)


def _get_lengths(token_lists: Sequence, row_length: int) -> np.ndarray:
  lengths = np.array([len(tokens) for tokens in token_lists], np.int64)
  if len(lengths) and not 0 < lengths.min() <= lengths.max() <= row_length:
    raise ValueError(
      f"texts of {lengths.min()} to {lengths.max()} tokens do not fit into "
      f"rows of {row_length}"
    )
  return lengths


def _choose_row_lengths(
  lengths: np.ndarray, rows_per_batch: Mapping[int, int]
) -> list[int]:
  """The row lengths worth a compiled program, longest first."""
  used: list[int] = []
  waiting = shorter = 0
  for row_length in sorted(rows_per_batch):
    fits = (lengths > shorter) & (lengths <= row_length)
    waiting, shorter = waiting + int(lengths[fits].sum()), row_length
    is_longest = not (lengths > row_length).any()
    batch = row_length * rows_per_batch[row_length]
    if waiting and (is_longest or waiting >= _BATCHES_PER_PROGRAM * batch):
      used.insert(0, row_length)
      waiting = 0
  return used


# (text, row, first column, segment)
_Place = tuple[int, int, int, int]


def _place(
  order: Sequence[int],
  lengths: Sequence[int],
  shape: tuple[int, int],
  num_required: int,
  rows_multiple: int,
) -> tuple[list[_Place], list[int]]:
  """Best-fit decreasing: gives each text the tightest gap that holds it.

  Args:
    order: the texts, longest first.
    lengths: tokens of every text.
    shape: tokens and segments of a row.
    num_required: how many of the first texts must find a place.
    rows_multiple: the others may only open rows up to a multiple of this.

  Returns:
    The places, and the texts that found none, in the order given.
  """
  row_length, num_segments = shape
  # Open rows lie in one stack per number of free columns; bit n of `is_open`
  # says whether stack n has any, so that no stack is searched in vain.
  stacks: list[list[tuple[int, int]]] = [[] for _ in range(row_length + 1)]
  is_open = num_rows = 0
  places: list[_Place] = []
  left: list[int] = []
  for i, text in enumerate(order):
    length = lengths[text]
    fitting = is_open >> length
    if fitting:
      free = length + (fitting & -fitting).bit_length() - 1
      row, segment = stacks[free].pop()
      if not stacks[free]:
        is_open &= ~(1 << free)
    elif i < num_required or num_rows % rows_multiple:
      free, row, segment = row_length, num_rows, 0
      num_rows += 1
    else:
      left.append(text)
      continue
    places.append((text, row, row_length - free, segment))
    free -= length
    if free and segment + 1 < num_segments:
      stacks[free].append((row, segment + 1))
      is_open |= 1 << free
  return places, left


def _fill_rows(
  token_lists: Sequence,
  places: Sequence[_Place],
  shape: tuple[int, int],
  pad_id: int,
) -> PackedRows:
  row_length, num_segments = shape
  texts, rows, columns, segments = (
    np.array(places, np.int64).reshape(-1, 4).transpose()
  )
  num_rows = int(rows.max(initial=-1)) + 1
  tokens = np.full((num_rows, row_length), pad_id, np.int32)
  segment_ids = np.zeros_like(tokens)
  positions = np.zeros_like(tokens)
  owners = np.full((num_rows, num_segments), -1, np.int32)
  if num_rows:
    # One flat index per token: all texts are written by three assignments.
    placed = [token_lists[text] for text in texts]
    lengths = np.array([len(text) for text in placed])
    starts = np.cumsum(lengths) - lengths
    within = np.arange(lengths.sum()) - np.repeat(starts, lengths)
    cells = np.repeat(rows * row_length + columns, lengths) + within
    tokens.reshape(-1)[cells] = np.concatenate(placed)
    segment_ids.reshape(-1)[cells] = np.repeat(segments + 1, lengths)
    positions.reshape(-1)[cells] = within
    owners[rows, segments] = texts
  return PackedRows(tokens, segment_ids, positions, owners)
