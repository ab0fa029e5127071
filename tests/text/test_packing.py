"""Packing: every token exactly once, in order, in few and full rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xqg_jax.text import packing

PAD = 0
TEXTS = st.lists(
  st.lists(st.integers(1, 99), min_size=1, max_size=16), max_size=40
)


def unpack(rows: packing.PackedRows) -> dict[int, list[int]]:
  """Owner -> tokens, read cell by cell, checking positions on the way."""
  texts: dict[int, list[int]] = {}
  for row in range(rows.num_rows):
    for segment, owner in enumerate(rows.owners[row].tolist()):
      cells = np.flatnonzero(rows.segment_ids[row] == segment + 1)
      if owner < 0:
        assert len(cells) == 0
        continue
      assert owner not in texts
      # A text lies in neighbouring cells; its positions count from 0.
      assert cells.tolist() == list(range(cells[0], cells[0] + len(cells)))
      assert rows.positions[row, cells].tolist() == list(range(len(cells)))
      texts[owner] = rows.tokens[row, cells].tolist()
  return texts


def check_padding(rows: packing.PackedRows) -> None:
  is_padding = rows.segment_ids == 0
  assert (rows.tokens[is_padding] == PAD).all()
  assert (rows.positions[is_padding] == 0).all()


@settings(deadline=None, max_examples=60)
@given(TEXTS, st.integers(16, 40), st.integers(1, 6))
def test_every_token_once_in_order(texts, row_length, num_segments):
  rows = packing.pack_texts(
    texts, row_length=row_length, num_segments=num_segments, pad_id=PAD
  )
  assert unpack(rows) == dict(enumerate(texts))
  assert rows.tokens.shape == (rows.num_rows, row_length)
  assert rows.owners.shape == (rows.num_rows, num_segments)
  check_padding(rows)


@settings(deadline=None, max_examples=60)
@given(TEXTS, st.integers(1, 4))
def test_row_lengths_hold_every_text_once(texts, batch):
  rows_per_batch = {4: batch, 8: 1, 32: batch}
  packed = packing.pack_into_row_lengths(
    texts, rows_per_batch=rows_per_batch, pad_id=PAD
  )
  found: dict[int, list[int]] = {}
  for row_length, rows in packed.items():
    assert rows.tokens.shape[1] == row_length
    check_padding(rows)
    texts_here = unpack(rows)
    assert not set(found) & set(texts_here)
    found |= texts_here
  assert found == dict(enumerate(texts))


def test_best_fit_fills_rows():
  # 7+1, 6+2, 5+3, 4+4: four full rows of 8.
  texts = [[n] * n for n in (1, 2, 3, 4, 4, 5, 6, 7)]
  rows = packing.pack_texts(texts, row_length=8, num_segments=8, pad_id=PAD)
  assert rows.num_rows == 4
  assert (rows.segment_ids > 0).all()
  assert rows.owners[:, :2].tolist() == [[7, 0], [6, 1], [5, 2], [3, 4]]


def test_waste_is_small_on_realistic_lengths():
  rng = np.random.default_rng(0)
  texts = [np.ones(n, np.int32) for n in rng.integers(8, 30, size=2000)]
  rows = packing.pack_texts(texts, row_length=128, num_segments=16, pad_id=PAD)
  assert (rows.segment_ids > 0).mean() > 0.97


def test_packing_is_deterministic():
  texts = [[5] * n for n in (3, 9, 3, 4, 9, 2)]
  first, second = (
    packing.pack_texts(texts, row_length=10, num_segments=3, pad_id=PAD)
    for _ in range(2)
  )
  for name in ("tokens", "segment_ids", "positions", "owners"):
    assert getattr(first, name).tobytes() == getattr(second, name).tobytes()


@pytest.mark.parametrize("texts", [[[]], [[1] * 9], [[1], []]])
def test_texts_that_do_not_fit_are_refused(texts):
  with pytest.raises(ValueError, match="rows of 8"):
    packing.pack_texts(texts, row_length=8, num_segments=2, pad_id=PAD)


def test_longest_row_length_is_the_limit():
  with pytest.raises(ValueError, match="rows of 8"):
    packing.pack_into_row_lengths(
      [[1] * 9], rows_per_batch={4: 1, 8: 1}, pad_id=PAD
    )


def test_no_texts_no_rows():
  rows = packing.pack_texts([], row_length=8, num_segments=2, pad_id=PAD)
  assert rows.tokens.shape == (0, 8)
  assert (
    packing.pack_into_row_lengths([], rows_per_batch={8: 1}, pad_id=PAD) == {}
  )


def pack(lengths, rows_per_batch):
  packed = packing.pack_into_row_lengths(
    [[1] * n for n in lengths], rows_per_batch=rows_per_batch, pad_id=PAD
  )
  return {
    length: [[int(t) for t in row if t >= 0] for row in rows.owners]
    for length, rows in packed.items()
  }


def test_unused_row_lengths_are_not_compiled_for():
  assert list(pack([4, 4, 4], {4: 2, 8: 2, 16: 2})) == [4]
  # 127 tokens are no sixteen batches of 2 x 4, so they join the longer rows.
  assert list(pack([3] * 42 + [1, 9], {4: 2, 16: 2})) == [16]
  assert list(pack([3] * 42 + [2, 9], {4: 2, 16: 2})) == [16, 4]


def test_short_texts_fill_gaps_of_long_rows_and_batches():
  # Text 0 needs a long row and leaves 6; the batch has a second long row; the
  # others go to short rows (a row of 16 takes two texts, a row of 4 one).
  packed = pack([10] + [4] * 16, {4: 1, 16: 2})
  assert packed == {16: [[0, 1], [2, 3]], 4: [[i] for i in range(4, 17)]}


def test_take_fills_up_with_empty_rows():
  rows = packing.pack_texts(
    [[1, 2], [3]], row_length=2, num_segments=1, pad_id=7
  )
  batch = rows.take(1, 3, pad_id=7)
  assert batch.tokens.tolist() == [[3, 7], [7, 7], [7, 7]]
  assert batch.segment_ids.tolist() == [[1, 0], [0, 0], [0, 0]]
  assert batch.owners.tolist() == [[1], [-1], [-1]]
  assert batch.tokens.dtype == batch.owners.dtype == np.int32
