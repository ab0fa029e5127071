"""Examples as the `tf.train.Example` records that TFDS reads.

TFDS's own serializer checks and converts every value through NumPy, which
takes most of the time of a large data set. The features here are few: texts,
truth values, lists of texts, and lists of passages.
"""

from typing import Any

import tensorflow as tf

Example = dict[str, Any]


def serialize_example(example: Example) -> bytes:
  """Serializes an example; the bytes depend on nothing but its values.

  A list of objects becomes one list a field, named `list/field`.
  """
  columns: dict[str, tf.train.Feature] = {}
  for name, value in example.items():
    if isinstance(value, bool):
      columns[name] = tf.train.Feature(
        int64_list=tf.train.Int64List(value=[int(value)])
      )
    elif isinstance(value, str):
      columns[name] = _to_feature([value])
    elif value and isinstance(value[0], dict):
      for key in value[0]:
        columns[f"{name}/{key}"] = _to_feature([item[key] for item in value])
    else:
      columns[name] = _to_feature(value)
  features = tf.train.Features(feature=columns)
  # By default protobuf leaves the order of a map open.
  return tf.train.Example(features=features).SerializeToString(
    deterministic=True
  )


def _to_feature(texts: list[str]) -> tf.train.Feature:
  values = [text.encode() for text in texts]
  return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))


def parse_texts(record: bytes) -> dict[str, list[str]]:
  """The texts of a serialized example, by column; empty lists may be absent."""
  columns = tf.train.Example.FromString(record).features.feature
  return {
    name: [value.decode() for value in column.bytes_list.value]
    for name, column in columns.items()
  }
