"""Feature converters: from a task's features to a model's arrays.

The query generator uses SeqIO's own `EncDecFeatureConverter`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf

from xqg_jax.seqio_data.preprocessors import Lengths

_SPEC = seqio.FeatureConverter.FeatureSpec
_MODEL_FEATURE_NAMES = {
  "query": "query_tokens",
  "passage": "passage_tokens",
  "negative_passages": "negative_passage_tokens",
}
# What losses may ask for beside tokens, under the same name in task and model.
FURTHER_FEATURES = {
  "passage_ids": _SPEC(dtype=tf.int32, rank=2),
  "answer_ids": _SPEC(dtype=tf.int32, rank=2),
  "teacher_scores": _SPEC(dtype=tf.float32),
}


class DualEncoderFeatureConverter(seqio.FeatureConverter):
  """Pads queries and passages for the dual encoder, one text a row.

  With the lengths {"query": 4, "passage": 5, "negative_passages": (2, 5)},
  padding 0 and one negative in the data, an example becomes

    query_tokens             [2, 7, 3, 0]
    passage_tokens           [2, 8, 9, 3, 0]
    negative_passage_tokens  [[2, 8, 8, 3, 0], [0, 0, 0, 0, 0]]

  `passage_ids`, `answer_ids` and `teacher_scores` are filled up with zeros.
  """

  TASK_FEATURES: Mapping[str, _SPEC] = {
    "query": _SPEC(dtype=tf.int32),
    "passage": _SPEC(dtype=tf.int32),
    "negative_passages": _SPEC(dtype=tf.int32, rank=2),
  }
  MODEL_FEATURES: Mapping[str, _SPEC] = {
    "query_tokens": _SPEC(dtype=tf.int32),
    "passage_tokens": _SPEC(dtype=tf.int32),
    "negative_passage_tokens": _SPEC(dtype=tf.int32, rank=2),
  }
  PACKING_FEATURE_DTYPES: Any = None

  def __init__(self, pad_id: int, further_features: Sequence[str] = ()):
    """Names what is made.

    Args:
      pad_id: id of padding, which is not 0 for XLM-R.
      further_features: of `FURTHER_FEATURES`, what a loss needs.
    """
    # SeqIO's length check knows one length a feature; padding checks here.
    super().__init__(pack=False, apply_length_check=False)
    self._pad_id = pad_id
    self._names = dict(_MODEL_FEATURE_NAMES)
    self._names |= {name: name for name in further_features}
    further = {name: FURTHER_FEATURES[name] for name in further_features}
    self.TASK_FEATURES = {**self.TASK_FEATURES, **further}
    self.MODEL_FEATURES = {**self.MODEL_FEATURES, **further}

  def _convert_features(
    self,
    ds: tf.data.Dataset,
    task_feature_lengths: Lengths,
  ) -> tf.data.Dataset:
    def convert(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
      return {
        name: self._pad(
          example[key],
          task_feature_lengths[key],
          0 if key in FURTHER_FEATURES else self._pad_id,
        )
        for key, name in self._names.items()
      }

    return ds.map(convert, num_parallel_calls=tf.data.AUTOTUNE)

  def _pad(
    self, values: tf.Tensor, shape: int | tuple[int, int], fill: int
  ) -> tf.Tensor:
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    missing = tf.constant(sizes) - tf.shape(values)
    # [*] -> shape; a negative amount of padding is refused by tf.pad.
    padding = tf.stack([tf.zeros_like(missing), missing], axis=1)
    padded = tf.pad(
      values, padding, constant_values=tf.cast(fill, values.dtype)
    )
    return tf.ensure_shape(padded, sizes)

  def get_model_feature_lengths(
    self, task_feature_lengths: Lengths
  ) -> dict[str, int | tuple[int, int]]:
    """Lengths under the names of the model's features."""
    return {
      name: task_feature_lengths[key] for key, name in self._names.items()
    }
