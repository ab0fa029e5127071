"""The feature converter: padded rows."""

import pytest
import tensorflow as tf

from tests.helpers.tiny_tasks import (
  register_tiny_tasks,
)
from xqg_jax.seqio_data.feature_converter import (
  DualEncoderFeatureConverter,
)


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
