"""Feature converters: padded rows, and packed ones with the same content."""

import numpy as np
import pytest
import seqio
import tensorflow as tf
from tiny_tasks import (
  DUAL_LENGTHS,
  register_tiny_tasks,
)

from xqg_jax.errors import InputError
from xqg_jax.feature_converters import (
  DualEncoderFeatureConverter,
  PackedDualEncoderFeatureConverter,
)
from xqg_jax.packing import get_num_segments


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
  return register_tiny_tasks(tmp_path_factory.mktemp("tiny"))


def test_converter_pads_with_the_given_id():
  dataset = tf.data.Dataset.from_tensors(
    {
      "query": tf.constant([0, 7, 2]),
      "passage": tf.constant([0, 8, 9, 2]),
      "negative_passages": tf.constant([[0, 5, 2]]),
    }
  )
  lengths = {"query": 4, "passage": 5, "negative_passages": (2, 4)}
  (row,) = DualEncoderFeatureConverter(pad_id=1)(
    dataset, lengths
  ).as_numpy_iterator()
  assert row["query_tokens"].tolist() == [0, 7, 2, 1]
  assert row["passage_tokens"].tolist() == [0, 8, 9, 2, 1]
  assert row["negative_passage_tokens"].tolist() == [
    [0, 5, 2, 1],
    [1, 1, 1, 1],
  ]


def _packed(batch_size=5, **kwargs):
  """Packed batches of the tiny task, and the examples that are in them."""
  converter = PackedDualEncoderFeatureConverter(
    0,
    **{
      "batch_size": batch_size,
      "row_lengths": {"query": 24, "passage": 50},
      **kwargs,
    },
  )
  dataset = seqio.get_mixture_or_task("tiny_dual_encoder").get_dataset(
    DUAL_LENGTHS, shuffle=False, seed=3, num_epochs=1
  )
  plain = DualEncoderFeatureConverter(0)(dataset, DUAL_LENGTHS)
  return (
    list(converter(dataset, DUAL_LENGTHS).as_numpy_iterator()),
    list(plain.batch(batch_size).as_numpy_iterator()),
  )


def _unpack(batch, side, num_texts):
  """The texts of packed rows, by owner; None where there is none."""
  texts = [None] * num_texts
  tokens, segments, positions, slots = (
    batch[f"{side}_{name}"]
    for name in ("tokens", "segment_ids", "positions", "slots")
  )
  width = get_num_segments(tokens.shape[1])
  found = np.zeros_like(segments, bool)
  for text, slot in enumerate(slots):
    if slot >= 0:
      row, segment = divmod(slot, width)
      inside = segments[row] == segment + 1
      assert not (found[row] & inside).any()
      found[row] |= inside
      texts[text] = tokens[row][inside].tolist()
      assert positions[row][inside].tolist() == list(range(inside.sum()))
  assert (found == (segments > 0)).all()
  assert not tokens[segments == 0].any()
  return texts


def test_packed_batches_have_the_content_of_unpacked_ones():
  packed, plain = _packed()
  assert len(packed) == 3  # of 16 examples one is left over
  for found, expected in zip(packed, plain, strict=False):
    queries = [row[row > 0].tolist() for row in expected["query_tokens"]]
    assert _unpack(found, "query", 5) == queries
    passages = [
      row[row > 0].tolist() or None
      for positive, negatives in zip(
        expected["passage_tokens"],
        expected["negative_passage_tokens"],
        strict=True,
      )
      for row in (positive, *negatives)
    ]
    assert _unpack(found, "passage", 15) == passages
    assert None in passages  # some pairs have fewer than two negatives


def test_packed_shapes_are_fixed_and_fewer_rows_may_do():
  packed, _ = _packed()
  assert packed[0]["query_tokens"].shape == (3, 24)  # 5 queries, 2 in a row
  assert packed[0]["passage_tokens"].shape == (8, 50)  # 15 passages
  assert packed[0]["passage_slots"].shape == (15,)
  few, _ = _packed(num_rows={"query": 3, "passage": 5})
  assert few[0]["passage_tokens"].shape == (5, 50)
  for a, b in zip(few, packed, strict=True):
    assert _unpack(a, "passage", 15) == _unpack(b, "passage", 15)


def test_packed_rows_that_cannot_do_are_refused():
  with pytest.raises(tf.errors.InvalidArgumentError, match="raise num_rows"):
    _packed(num_rows={"query": 3, "passage": 1})
  with pytest.raises(InputError, match="too short for texts of 24"):
    _packed(row_lengths={"query": 24, "passage": 20})
