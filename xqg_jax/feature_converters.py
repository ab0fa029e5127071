"""Feature converters: from a task's features to a model's arrays.

The query generator uses SeqIO's own `EncDecFeatureConverter`.
"""

from collections.abc import Mapping

import numpy as np
import seqio
import tensorflow as tf

from xqg_jax.errors import InputError
from xqg_jax.packing import get_num_segments, pack_texts

Lengths = Mapping[str, int | tuple[int, int]]

_SPEC = seqio.FeatureConverter.FeatureSpec
_MODEL_FEATURE_NAMES = {
  "query": "query_tokens",
  "passage": "passage_tokens",
  "negative_passages": "negative_passage_tokens",
}


class DualEncoderFeatureConverter(seqio.FeatureConverter):
  """Pads queries and passages for the dual encoder, one text a row.

  With the lengths {"query": 4, "passage": 5, "negative_passages": (2, 5)},
  padding 0 and one negative to be had, an example becomes

    query_tokens             [2, 7, 3, 0]
    passage_tokens           [2, 8, 9, 3, 0]
    negative_passage_tokens  [[2, 8, 8, 3, 0], [0, 0, 0, 0, 0]]
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

  def __init__(self, pad_id: int):
    """Takes the id of padding, which is not 0 for XLM-R."""
    # SeqIO's length check knows one length a feature; padding checks here.
    super().__init__(pack=False, apply_length_check=False)
    self._pad_id = pad_id

  def _convert_features(
    self,
    ds: tf.data.Dataset,
    task_feature_lengths: Lengths,
  ) -> tf.data.Dataset:
    def convert(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
      return {
        name: self._pad(example[key], task_feature_lengths[key])
        for key, name in _MODEL_FEATURE_NAMES.items()
      }

    return ds.map(convert, num_parallel_calls=tf.data.AUTOTUNE)

  def _pad(self, tokens: tf.Tensor, shape: int | tuple[int, int]) -> tf.Tensor:
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    missing = tf.constant(shape) - tf.shape(tokens)
    # [*] -> shape; a negative amount of padding is refused by tf.pad.
    padding = tf.stack([tf.zeros_like(missing), missing], axis=1)
    padded = tf.pad(tokens, padding, constant_values=self._pad_id)
    return tf.ensure_shape(padded, shape)

  def get_model_feature_lengths(
    self, task_feature_lengths: Lengths
  ) -> dict[str, int | tuple[int, int]]:
    """Lengths under the names of the model's features."""
    return {
      name: task_feature_lengths[key]
      for key, name in _MODEL_FEATURE_NAMES.items()
    }


class PackedDualEncoderFeatureConverter(seqio.FeatureConverter):
  """Packs the texts of a batch of examples into rows of fixed length.

  Each element of the result is a whole batch, of fixed shapes, with the same
  texts as `DualEncoderFeatureConverter` gives row by row:

    query_tokens       [query rows, query row length]
    query_segment_ids  1 for a row's first text, 2 for its second, 0 = padding
    query_positions    restart at 0 with each text
    query_owners       [query rows, segments]; the question that a segment is;
                       -1 = none
    passage_*          the same of the passages: passage `i * (1 + negatives)`
                       is question i's positive, those after it its negatives
    passage_mask       [batch_size * (1 + negatives)]; 1 where there is one

  A last batch that is not full is left out.
  """

  TASK_FEATURES = DualEncoderFeatureConverter.TASK_FEATURES
  MODEL_FEATURES: Mapping[str, _SPEC] = {
    **{
      f"{side}_{name}": _SPEC(dtype=tf.int32, rank=2)
      for side in ("query", "passage")
      for name in ("tokens", "segment_ids", "positions", "owners")
    },
    "passage_mask": _SPEC(dtype=tf.int32),
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

    def convert(batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
      # [batch, length], [batch, negatives, length] -> [texts, length]
      positives = batch["passage_tokens"][:, None]
      passages = tf.concat([positives, batch["negative_passage_tokens"]], 1)
      passages = tf.reshape(passages, [-1, task_feature_lengths["passage"]])
      mask = tf.reduce_any(passages != self._pad_id, axis=1)
      packed = {
        **self._pack_side("query", batch["query_tokens"], shapes),
        **self._pack_side("passage", passages, shapes),
        "passage_mask": tf.cast(mask, tf.int32),
      }
      return {key: tf.ensure_shape(packed[key], shapes[key]) for key in shapes}

    return padded.batch(self._batch_size, drop_remainder=True).map(
      convert, num_parallel_calls=tf.data.AUTOTUNE
    )

  def _pack_side(
    self, side: str, texts: tf.Tensor, shapes: Mapping[str, tuple[int, ...]]
  ) -> dict[str, tf.Tensor]:
    """Packs texts, [texts, length] with padding, into the rows of a side."""
    num_rows, row_length = shapes[f"{side}_tokens"]
    _, num_segments = shapes[f"{side}_owners"]

    def pack(padded: np.ndarray) -> tuple[np.ndarray, ...]:
      present = np.flatnonzero((padded != self._pad_id).any(axis=1))
      rows = pack_texts(
        [_strip(row, self._pad_id) for row in padded[present]],
        row_length=row_length,
        num_segments=num_segments,
        pad_id=self._pad_id,
      )
      if rows.num_rows > num_rows:
        raise InputError(
          f"a batch takes {rows.num_rows} rows of {row_length} {side} tokens, "
          f"and only {num_rows} are given",
          mend=f"raise num_rows[{side!r}], or leave it out",
        )
      rows = rows.take(0, num_rows, pad_id=self._pad_id)
      owners = np.append(present, -1)[rows.owners].astype(np.int32)
      return rows.tokens, rows.segment_ids, rows.positions, owners

    names = ("tokens", "segment_ids", "positions", "owners")
    arrays = tf.numpy_function(
      pack, [texts], [tf.int32] * len(names), stateful=False
    )
    return {
      f"{side}_{name}": array for name, array in zip(names, arrays, strict=True)
    }

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
      shape, segments = self._get_shape(side, texts, task_feature_lengths[side])
      for name in ("tokens", "segment_ids", "positions"):
        shapes[f"{side}_{name}"] = shape
      shapes[f"{side}_owners"] = shape[0], segments
    return {**shapes, "passage_mask": (num_texts["passage"],)}

  def _get_shape(
    self, side: str, num_texts: int, length: int
  ) -> tuple[tuple[int, int], int]:
    """Rows and their length, and the most segments of a row."""
    row_length = self._row_lengths[side]
    if row_length < length:
      raise InputError(
        f"rows of {row_length} tokens are too short for a {side} of {length}",
        mend=f"raise row_lengths[{side!r}]",
      )
    whole_texts = row_length // length
    segments = max(get_num_segments(row_length), whole_texts)
    if self._num_rows is not None:
      return (self._num_rows[side], row_length), segments
    # A row is closed only when less than a whole text fits in, so it has at
    # least `whole_texts` texts.
    return (-(-num_texts // whole_texts), row_length), segments


def _strip(row: np.ndarray, pad_id: int) -> np.ndarray:
  """A text without the padding at its end."""
  return row[: np.flatnonzero(row != pad_id)[-1] + 1]
