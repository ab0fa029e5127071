"""SeqIO preprocessors of query generation, and of pairs in general.

The road of an example, with what a step does once and what it does each epoch:

  training:   prompt and target texts -> tokens -> kept in memory
              | each epoch: cut to length, end of sequence
  inference:  the same, of a passage in each language

Those of the dual encoder are in `dual_encoder_preprocessors`.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from xqg_jax.data.languages import (
  XOR_TYDI_LANGUAGES,
  get_language,
  get_languages,
)
from xqg_jax.data.passages import Passage
from xqg_jax.text.prompts import (
  check_limit,
  make_decoder_start,
  make_instruction,
  make_prompt_parts,
  share_room,
)

# Larger collections are not kept in memory as tokens.
MAX_CACHED_EXAMPLES = 20_000

# Tensors; of rows of different lengths ragged ones, with other methods.
Example = Mapping[str, Any]
Features = Mapping[str, seqio.Feature]
# Of each feature; of one with two axes how many rows, and their length.
Lengths = Mapping[str, Any]
# What SeqIO takes: functions of a data set, and its own placeholders.
Preprocessors = tuple[Callable[..., Any], ...]


def cache_if_small(
  dataset: tf.data.Dataset, max_examples: int = MAX_CACHED_EXAMPLES
) -> tf.data.Dataset:
  """Keeps the examples so far in memory if there are at most so many."""
  # An infinite or unknown number is negative.
  is_small = 0 <= int(dataset.cardinality()) <= max_examples
  return dataset.cache() if is_small else dataset


# -------------------------------------------------------------- training pairs


def from_passage_lists(
  dataset: tf.data.Dataset, language: str | None = None
) -> tf.data.Dataset:
  """Brings pairs as TFDS stores them into the form of `PAIR_SPEC`.

  Args:
    dataset: with `positive_passages` and `negative_passages`, each a dict of
      lists `passage_id`, `title` and `text`. There are no teacher's scores.
    language: keeps the pairs of one language; None keeps all.
  """

  def convert(example: Mapping[str, Any]) -> dict[str, Any]:
    return {
      **{key: example[key] for key in _PAIR_TEXTS},
      **_list_passages("positive", example["positive_passages"]),
      **_list_passages("negative", example["negative_passages"]),
    }

  if language is not None:
    dataset = dataset.filter(lambda example: example["language"] == language)
  return dataset.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


_PAIR_TEXTS = ("query_id", "query", "language", "answers")


def _list_passages(
  kind: str, passages: Mapping[str, tf.Tensor]
) -> dict[str, Any]:
  ids = passages["passage_id"]
  return {
    f"{kind}_ids": ids,
    f"{kind}_titles": passages["title"],
    f"{kind}_texts": passages["text"],
    f"{kind}_scores": tf.fill(tf.shape(ids), np.float32(np.nan)),
  }


# ------------------------------------------------------------ query generation

_PROMPT_PARTS = ("instruction", "head", "inputs")
# Neither inputs nor targets, but asked for by metrics and writers.
_PASSED_ON = ("language", "passage_id", "title", "text")


@seqio.map_over_dataset
def to_prompt_and_question(
  example: Example, language_in: str = "prompt"
) -> dict[str, Any]:
  """Makes `inputs`, the prompt, and `targets`, the question, of a pair.

  The prompt asks for a question in the pair's language to its first positive
  passage. `instruction` and `head` are its beginnings, without and with the
  title (`prompts.make_prompt_parts`). Language and passage go along.

  Args:
    example: a pair.
    language_in: "prompt", or "decoder": the question begins with the language's
      name instead.
  """
  *parts, start = tf.numpy_function(
    functools.partial(_make_texts, language_in=language_in),
    [
      example["language"],
      example["positive_titles"][0],
      example["positive_texts"][0],
    ],
    [tf.string] * (len(_PROMPT_PARTS) + 1),
    stateful=False,
  )
  return {
    **{
      name: tf.ensure_shape(part, [])
      for name, part in zip(_PROMPT_PARTS, parts, strict=True)
    },
    "targets": tf.ensure_shape(start, []) + example["query"],
    **{key: example[key] for key in _PASSED_ON if key in example},
  }


def _make_texts(
  language: bytes, title: bytes, text: bytes, *, language_in: str
) -> tuple[bytes, ...]:
  """The parts of a prompt, and what its question begins with."""
  passage = Passage("", title=title.decode(), text=text.decode())
  known = get_language(language.decode())
  if language_in == "prompt":
    texts = (*make_prompt_parts(passage, known), "")
  else:
    start = f"{make_decoder_start(known)} "
    texts = (*make_prompt_parts(passage, None), start)
  return tuple(part.encode() for part in texts)


def tokenize_prompts(
  dataset: tf.data.Dataset, output_features: Features
) -> tf.data.Dataset:
  """Tokenises prompts and questions, and counts the prompts' parts.

  `num_instruction` and `num_head` say how many of the tokens of `inputs` are
  the instruction, and instruction and title.
  """
  inputs, targets = (
    output_features[key].vocabulary for key in ("inputs", "targets")
  )

  def convert(example: Example) -> dict[str, Any]:
    rows = inputs.encode_tf(tf.stack([example[k] for k in _PROMPT_PARTS]))
    lengths = tf.cast(rows.row_lengths(), tf.int32)
    kept = {k: v for k, v in example.items() if k not in _PROMPT_PARTS}
    return {
      **kept,
      "inputs_pretokenized": example["inputs"],
      "targets_pretokenized": example["targets"],
      "inputs": rows[2],
      "targets": targets.encode_tf(example["targets"]),
      "num_instruction": lengths[0],
      "num_head": lengths[1],
    }

  return dataset.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


def cut_prompts(
  dataset: tf.data.Dataset,
  output_features: Features,
  sequence_length: Lengths | None = None,
  *,
  languages: Sequence[str] = XOR_TYDI_LANGUAGES,
) -> tf.data.Dataset:
  """Cuts prompts, leaving a place for the end of sequence.

  A cut prompt loses the end of its passage (`prompts.share_room`), and its
  `is_cut` is 1.

  Args:
    dataset: as `tokenize_prompts` gives it.
    output_features: with the vocabulary of `inputs`.
    sequence_length: with the limit of `inputs`; None cuts nothing.
    languages: those that prompts name; the longest instruction must fit.

  Raises:
    InputError: the length leaves no room for a passage.
  """
  length = (sequence_length or {}).get("inputs")
  if length is not None:
    vocabulary = output_features["inputs"].vocabulary
    check_limit(length, _count_instruction(vocabulary, languages))

  def convert(example: Example) -> dict[str, Any]:
    example = dict(example)
    tokens = example["inputs"]
    start, end = example.pop("num_instruction"), example.pop("num_head")
    size = tf.shape(tokens)[0]
    limit = size if length is None else length - 1
    title, text = share_room(
      limit - start,
      end - start,
      size - end,
      minimum=tf.minimum,
      maximum=tf.maximum,
    )
    cut = tf.concat([tokens[: start + title], tokens[end : end + text]], axis=0)
    is_cut = size > limit
    return {
      **example,
      "inputs": cut,
      "is_cut": tf.cast(is_cut, tf.int32),
    }

  return dataset.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


def _count_instruction(
  vocabulary: seqio.Vocabulary, languages: Sequence[str]
) -> int:
  """Tokens of the longest instruction."""
  lengths = [
    len(vocabulary.encode(make_instruction(language)))
    for language in get_languages(languages)
  ]
  return max(lengths, default=0)


def to_passage_and_languages(
  dataset: tf.data.Dataset, languages: Sequence[str]
) -> tf.data.Dataset:
  """Makes a pair without a question of each passage and language, in order."""
  codes = tf.constant(list(languages))

  def expand(example: Example) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(codes).map(
      lambda code: {
        **example,
        "language": code,
        "query": "",
        "positive_titles": example["title"][None],
        "positive_texts": example["text"][None],
      }
    )

  return dataset.flat_map(expand)


def make_generation_preprocessors(
  language: str, language_in: str = "prompt"
) -> Preprocessors:
  """The preprocessors of a task of training pairs in one language.

  Args:
    language: code.
    language_in: what names it, "prompt" or "decoder".
  """
  named = (language,) if language_in == "prompt" else ()
  return (
    functools.partial(to_prompt_and_question, language_in=language_in),
    tokenize_prompts,
    cache_if_small,
    seqio.CacheDatasetPlaceholder(),
    functools.partial(cut_prompts, languages=named),
    seqio.preprocessors.append_eos_after_trim,
  )


def make_inference_preprocessors(
  languages: Sequence[str],
) -> Preprocessors:
  """The preprocessors of a task that asks for questions to passages."""

  def to_pairs(dataset: tf.data.Dataset) -> tf.data.Dataset:
    return to_passage_and_languages(dataset, languages)

  return (
    to_pairs,
    to_prompt_and_question,
    tokenize_prompts,
    seqio.CacheDatasetPlaceholder(),
    functools.partial(cut_prompts, languages=languages),
    seqio.preprocessors.append_eos_after_trim,
  )
