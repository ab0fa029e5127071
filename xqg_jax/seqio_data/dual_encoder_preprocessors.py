"""SeqIO preprocessors of the dual encoder: from pairs to tokens of passages.

The road of an example, with what a step does once and what it does each epoch:

  query and passage texts -> tokens -> kept in memory
  | each epoch: draw a query, a positive and hard negatives, cut to length

Collections too large to keep as tokens are tokenised in each epoch, after the
draw. All draws are stateless: SeqIO's seed decides them.
"""

from collections.abc import Sequence
from typing import Any

import seqio
import tensorflow as tf

from xqg_jax.data.training_pairs import COMMON_ANSWERS, MAX_ANSWERS
from xqg_jax.models.dual_encoder.config import DualEncoderConfig
from xqg_jax.seqio_data.preprocessors import (
  MAX_CACHED_EXAMPLES,
  Example,
  Features,
  Lengths,
  Preprocessors,
)


def to_query_and_passages(
  dataset: tf.data.Dataset, config: DualEncoderConfig
) -> tf.data.Dataset:
  """Makes the texts that the encoder sees, with the prefixes of `config`.

  Features: `query`, a string, or `queries`, a list; `positives` and
  `negatives`, lists of strings as `DualEncoder.format_passage` makes them. For
  losses there are also `answer_ids`, [answers, 2], and of both kinds of
  passages `..._ids`, [passages, 2], and `..._scores`.
  """

  def passages(titles: tf.Tensor, texts: tf.Tensor) -> tf.Tensor:
    titles = tf.where(titles == "", "", titles + " ")
    return config.passage_prefix + titles + texts

  def convert(example: Example) -> dict[str, Any]:
    query = "queries" if "queries" in example else "query"
    return {
      query: config.query_prefix + example[query],
      "positives": passages(
        example["positive_titles"], example["positive_texts"]
      ),
      "negatives": passages(
        example["negative_titles"], example["negative_texts"]
      ),
      "answer_ids": to_answer_ids(example["answers"]),
      **{
        f"{kind}_ids": to_ids(example[f"{kind}_ids"])
        for kind in ("positive", "negative")
      },
      **{
        f"{kind}_scores": example[f"{kind}_scores"]
        for kind in ("positive", "negative")
      },
    }

  return dataset.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


def to_ids(strings: tf.Tensor) -> tf.Tensor:
  """Numbers for strings, equal for equal ones: [n] -> [n, 2], int32.

  62 bits of FarmHash's fingerprint, which is the same on every machine.

  >>> ids = to_ids(tf.constant(["a", "b", "a"])).numpy()
  >>> ids.shape, bool((ids[0] == ids[2]).all()), bool((ids[0] == ids[1]).any())
  ((3, 2), True, False)
  """
  return tf.bitcast(tf.strings.to_hash_bucket_fast(strings, 2**62), tf.int32)


def to_answer_ids(answers: tf.Tensor) -> tf.Tensor:
  """Ids of the answer strings, [answers, 2], without regard to case.

  Yes, no and unknown are left out: questions that share them have nothing in
  common.
  """
  answers = tf.strings.lower(tf.strings.strip(answers), encoding="utf-8")
  is_common = tf.reduce_any(answers[:, None] == COMMON_ANSWERS, axis=1)
  return to_ids(answers[~is_common])


def tokenize_if_small(
  dataset: tf.data.Dataset,
  output_features: Features,
  max_examples: int = MAX_CACHED_EXAMPLES,
) -> tf.data.Dataset:
  """Tokenises all passages of a collection that fits in memory, and keeps it.

  A larger one passes as text: of its many negatives few are drawn.
  """
  if not 0 <= int(dataset.cardinality()) <= max_examples:
    return dataset
  return tokenize_texts(dataset, output_features).cache()


def tokenize_texts(
  dataset: tf.data.Dataset, output_features: Features
) -> tf.data.Dataset:
  """Tokenises whatever feature is still text, with special tokens."""
  vocabulary: Any = output_features["query"].vocabulary
  spec: Any = dataset.element_spec
  keys = [key for key, value in spec.items() if value.dtype == tf.string]
  if not keys:
    return dataset

  def convert(example: Example) -> dict[str, Any]:
    # One call for all texts of an example: a call costs more than a text.
    texts = [tf.reshape(example[key], [-1]) for key in keys]
    rows = vocabulary.encode_with_special_tokens_tf(tf.concat(texts, axis=0))
    tokens, start = {}, 0
    for key, part in zip(keys, texts, strict=True):
      end = start + _num_rows(part)
      is_one = spec[key].shape.rank == 0
      tokens[key] = rows[start] if is_one else rows[start:end]
      start = end
    return {**example, **tokens}

  return dataset.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


@seqio.map_over_dataset(num_seeds=1)
def draw_query(example: Example, seed: Any) -> dict[str, Any]:
  """Draws `query` of the `queries`."""
  queries = example["queries"]
  choice = tf.random.stateless_uniform(
    [], seed, 0, _num_rows(queries), tf.int32
  )
  others = {key: x for key, x in example.items() if key != "queries"}
  return {**others, "query": queries[choice]}


@seqio.map_over_dataset(num_seeds=2)
def sample_passages(
  example: Example,
  seeds: Sequence[Any],
  sequence_length: Lengths | None = None,
) -> dict[str, Any]:
  """Draws `passage` of the positives and `negative_passages`, without repeats.

  The lengths name how many negatives: `{"negative_passages": (7, 128)}` draws
  seven; a pair that has fewer gives them all.
  """
  positives, negatives = example["positives"], example["negatives"]
  count = _num_rows(positives)
  choice = tf.random.stateless_uniform([], seeds[0], 0, count, tf.int32)
  shape = _num_rows(negatives)[None]
  order = tf.argsort(tf.random.stateless_uniform(shape, seeds[1]))
  if sequence_length is not None:
    order = order[: sequence_length["negative_passages"][0]]
  return {
    "query": example["query"],
    "passage": positives[choice],
    "negative_passages": tf.gather(negatives, order),
    "passage_ids": _take(example, "ids", choice, order),
    "teacher_scores": _take(example, "scores", choice, order),
    "answer_ids": example["answer_ids"][:MAX_ANSWERS],
  }


def _take(
  example: Example, name: str, choice: tf.Tensor, order: tf.Tensor
) -> tf.Tensor:
  """The drawn positive's value, then those of the drawn negatives."""
  positive = example[f"positive_{name}"][choice]
  negatives = tf.gather(example[f"negative_{name}"], order)
  return tf.concat([positive[None], negatives], axis=0)


def _num_rows(rows: tf.Tensor | tf.RaggedTensor) -> tf.Tensor:
  if isinstance(rows, tf.RaggedTensor):
    return tf.cast(rows.nrows(), tf.int32)
  return tf.shape(rows)[0]


def cut_to_length(
  dataset: tf.data.Dataset,
  output_features: Features,
  sequence_length: Lengths | None = None,
) -> tf.data.Dataset:
  """Cuts texts but keeps the special tokens at their end.

  The result equals the tokenizer's own, truncated to the same length.
  `negative_passages` becomes a dense [negatives, length], padded.
  """
  vocabulary: Any = output_features["query"].vocabulary
  _, after = vocabulary.special_tokens
  lengths = sequence_length or {}

  def convert(example: Example) -> dict[str, Any]:
    negatives = example["negative_passages"]
    longest = tf.cast(negatives.bounding_shape(axis=1), tf.int32)
    _, length = lengths.get("negative_passages", (None, longest))
    return {
      **example,
      **{
        key: _cut_row(example[key], lengths.get(key), len(after))
        for key in ("query", "passage")
      },
      "negative_passages": _cut_rows(
        negatives, length, after, pad_id=vocabulary.pad_id
      ),
    }

  return dataset.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


def _cut_row(
  tokens: tf.Tensor, length: int | None, num_after: int
) -> tf.Tensor:
  if length is None:
    return tokens
  size = tf.shape(tokens)[0]
  kept = tf.minimum(size, length) - num_after
  return tf.concat([tokens[:kept], tokens[size - num_after :]], axis=0)


def _cut_rows(
  tokens: tf.RaggedTensor,
  length: int | tf.Tensor,
  after: Sequence[int],
  *,
  pad_id: int,
) -> tf.Tensor:
  # [rows, None] -> [rows, length]; what is longer loses its end ...
  dense = tokens.to_tensor(default_value=pad_id, shape=[None, length])
  if not after:
    return dense
  # ... which is put back over its last tokens.
  is_cut = (tokens.row_lengths() > tf.cast(length, tf.int64))[:, None]
  ends = tf.where(
    is_cut, tf.constant([after], tf.int32), dense[:, -len(after) :]
  )
  return tf.concat([dense[:, : -len(after)], ends], axis=1)


def make_dual_encoder_preprocessors(
  config: DualEncoderConfig, *, draws_query: bool = False
) -> Preprocessors:
  """The preprocessors of a dual-encoder task, in order.

  Args:
    config: gives the prefixes of queries and passages.
    draws_query: whether an example has several `queries`, of which each epoch
      draws one.
  """

  def to_texts(dataset: tf.data.Dataset) -> tf.data.Dataset:
    return to_query_and_passages(dataset, config)

  return (
    to_texts,
    tokenize_if_small,
    seqio.CacheDatasetPlaceholder(),
    *([draw_query] if draws_query else []),
    sample_passages,
    tokenize_texts,
    cut_to_length,
  )
