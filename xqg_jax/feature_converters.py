"""Feature converters: from a task's features to a model's arrays.

The query generator uses SeqIO's own `EncDecFeatureConverter`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import seqio
import tensorflow as tf

from xqg_jax.training_rows import SIDES, count_rows, pack_batch

Lengths = Mapping[str, int | tuple[int, int]]

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
  padding 0 and one negative to be had, an example becomes

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
  PACKING_FEATURE_DTYPES = None

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
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    missing = tf.constant(shape) - tf.shape(values)
    # [*] -> shape; a negative amount of padding is refused by tf.pad.
    padding = tf.stack([tf.zeros_like(missing), missing], axis=1)
    padded = tf.pad(
      values, padding, constant_values=tf.cast(fill, values.dtype)
    )
    return tf.ensure_shape(padded, shape)

  def get_model_feature_lengths(
    self, task_feature_lengths: Lengths
  ) -> dict[str, int | tuple[int, int]]:
    """Lengths under the names of the model's features."""
    return {
      name: task_feature_lengths[key] for key, name in self._names.items()
    }


class PackedDualEncoderFeatureConverter(seqio.FeatureConverter):
  """Packs the texts of a batch of examples into rows of fixed length.

  Each element of the result is a whole batch in the form of
  `training_rows.pack_batch`, of fixed shapes, with the same texts as
  `DualEncoderFeatureConverter` gives row by row. A last batch that is not full
  is left out.
  """

  TASK_FEATURES = DualEncoderFeatureConverter.TASK_FEATURES
  MODEL_FEATURES: Mapping[str, _SPEC] = {
    f"{side}_{name}": _SPEC(dtype=tf.int32, rank=1 if name == "slots" else 2)
    for side in SIDES
    for name in ("tokens", "segment_ids", "positions", "slots")
  }
  PACKING_FEATURE_DTYPES = None

  def __init__(
    self,
    pad_id: int,
    *,
    batch_size: int,
    row_lengths: Mapping[str, int],
    num_rows: Mapping[str, int] | None = None,
  ):
    """Fixes the shapes.

    Args:
      pad_id: id of padding, which is not 0 for XLM-R.
      batch_size: questions in a batch.
      row_lengths: tokens of a row of `query` and of `passage`.
      num_rows: rows of `query` and of `passage`; None: as many as hold any
        batch. Texts are seldom of full length, so that far fewer will do.
    """
    # Packing is done here, and SeqIO's checks know one length a feature.
    super().__init__(pack=False, apply_length_check=False)
    self._pad_id = pad_id
    self._batch_size = batch_size
    self._row_lengths = row_lengths
    self._num_rows = num_rows

  def _convert_features(
    self, ds: tf.data.Dataset, task_feature_lengths: Lengths
  ) -> tf.data.Dataset:
    shapes = self.get_model_feature_lengths(task_feature_lengths)
    padded = DualEncoderFeatureConverter(self._pad_id)(ds, task_feature_lengths)
    names = list(_MODEL_FEATURE_NAMES.values())
    num_rows = {side: shapes[f"{side}_tokens"][0] for side in SIDES}

    def pack(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
      packed = pack_batch(
        dict(zip(names, arrays, strict=True)),
        pad_id=self._pad_id,
        row_lengths=self._row_lengths,
        num_rows=num_rows,
      )
      return tuple(packed[name] for name in shapes)

    def convert(batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
      arrays = tf.numpy_function(
        pack,
        [batch[name] for name in names],
        [tf.int32] * len(shapes),
        stateful=False,
      )
      return {
        name: tf.ensure_shape(array, shape)
        for (name, shape), array in zip(shapes.items(), arrays, strict=True)
      }

    return padded.batch(self._batch_size, drop_remainder=True).map(
      convert, num_parallel_calls=tf.data.AUTOTUNE
    )

  def get_model_feature_lengths(
    self, task_feature_lengths: Lengths
  ) -> dict[str, tuple[int, ...]]:
    """Shapes of the model's features.

    Raises:
      InputError: rows that are too short for a text.
    """
    count, _ = task_feature_lengths["negative_passages"]
    num_texts = {
      "query": self._batch_size,
      "passage": self._batch_size * (1 + count),
    }
    shapes: dict[str, tuple[int, ...]] = {}
    for side, texts in num_texts.items():
      row_length = self._row_lengths[side]
      rows = count_rows((texts, task_feature_lengths[side]), row_length)
      if self._num_rows is not None:
        rows = self._num_rows[side]
      for name in ("tokens", "segment_ids", "positions"):
        shapes[f"{side}_{name}"] = rows, row_length
      shapes[f"{side}_slots"] = (texts,)
    return shapes
