"""The SeqIO vocabulary against the tokenizer that it wraps."""

import numpy as np
import pytest
import tensorflow as tf
import tokenizers
from tiny_collection import QUESTIONS, make_tokenizer

from xqg_jax.records import read_questions
from xqg_jax.tokenizers import train_tokenizer
from xqg_jax.vocabularies import HuggingFaceVocabulary

TEXTS = [*QUESTIONS.values(), "The river flows north.", "", "Δ unknown 你"]


@pytest.mark.parametrize("style", ["t5", "bert"])
def test_encode_leaves_out_the_special_tokens_only(style):
  tokenizer = make_tokenizer(style)
  vocabulary = HuggingFaceVocabulary(tokenizer)
  before, after = vocabulary.special_tokens
  assert (before, after) == {"t5": ((), (1,)), "bert": ((2,), (3,))}[style]
  for text in TEXTS:
    (whole,) = tokenizer.encode_batch([text], max_length=1000)
    assert [*before, *vocabulary.encode(text), *after] == whole.tolist()


def test_ids_equal_the_saved_tokenizer_on_real_questions(shared_dir, tmp_path):
  path = shared_dir / "data/xor_tydi/xor_dev_retrieve_eng_span_v1_1.jsonl"
  questions = [q.question for q in read_questions(path)]
  train_tokenizer(questions, vocab_size=3000, style="t5").save(tmp_path)
  vocabulary = HuggingFaceVocabulary(str(tmp_path))
  reference = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
  rows = vocabulary.encode_batch(questions)
  for question, row in zip(questions, rows, strict=True):
    expected = reference.encode(question, add_special_tokens=False).ids
    assert row.tolist() == expected
  ragged = vocabulary.encode_tf(tf.constant(questions[:50])).to_list()
  assert ragged == [row.tolist() for row in rows[:50]]


@pytest.mark.parametrize("style", ["t5", "bert"])
def test_round_trip(style):
  vocabulary = HuggingFaceVocabulary(make_tokenizer(style))
  for text in QUESTIONS.values():
    text = text.format("fiaor")
    ids = vocabulary.encode(text)
    assert vocabulary.decode(ids) == text
    decoded = vocabulary.decode_tf(tf.constant(ids, tf.int32))
    assert decoded.numpy().decode() == text


def test_encode_in_a_graph():
  vocabulary = HuggingFaceVocabulary(make_tokenizer("t5"))
  dataset = tf.data.Dataset.from_tensor_slices(TEXTS).map(vocabulary.encode_tf)
  for text, ids in zip(TEXTS, dataset.as_numpy_iterator(), strict=True):
    assert ids.dtype == np.int32
    assert ids.tolist() == vocabulary.encode(text)
  none = vocabulary.encode_tf(tf.constant([], tf.string))
  assert none.to_list() == []


def test_decode_stops_at_the_end_and_drops_unknown_ids():
  vocabulary = HuggingFaceVocabulary(make_tokenizer("t5"))
  ids = vocabulary.encode("The river")
  beyond = vocabulary.vocab_size + 5
  assert vocabulary.decode([*ids, beyond, 1, *ids]) == "The river"


def test_equality_is_that_of_the_tokenizers(tmp_path):
  make_tokenizer("t5").save(tmp_path)
  one = HuggingFaceVocabulary(make_tokenizer("t5"))
  assert one == HuggingFaceVocabulary(str(tmp_path))
  assert hash(one) == hash(HuggingFaceVocabulary(str(tmp_path)))
  assert one != HuggingFaceVocabulary(make_tokenizer("bert"))
  assert (one.pad_id, one.eos_id) == (0, 1)
