"""SeqIO's vocabularies against the tokenizers of models, id by id."""

import collections
import json
import os
import pathlib

import numpy as np
import pytest
import sentencepiece
import seqio
import tensorflow as tf
import transformers

from tests.helpers.tiny_collection import QUESTIONS, make_tokenizer
from xqg_jax.checkpoints.t5x.networks import load_tokenizer_at
from xqg_jax.data.languages import XOR_TYDI_LANGUAGES
from xqg_jax.data.questions import read_questions
from xqg_jax.errors import InputError
from xqg_jax.seqio_data.vocabularies import (
  MT5_SENTENCEPIECE,
  HuggingFaceVocabulary,
  is_vocabulary_of,
  load_vocabulary,
)
from xqg_jax.text.tokenizer import load_tokenizer
from xqg_jax.text.tokenizer_training import train_tokenizer

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


@pytest.mark.parametrize("style", ["t5", "bert"])
def test_ids_equal_transformers_on_real_questions(style, questions, tmp_path):
  train_tokenizer(questions, vocab_size=3000, style=style).save(tmp_path)
  vocabulary = HuggingFaceVocabulary(str(tmp_path))
  reference = transformers.PreTrainedTokenizerFast(
    tokenizer_file=str(tmp_path / "tokenizer.json")
  )
  expected = reference(questions, add_special_tokens=False)["input_ids"]
  rows = vocabulary.encode_batch(questions)
  assert [row.tolist() for row in rows] == expected
  assert vocabulary.encode_tf(tf.constant(questions)).to_list() == expected
  found = vocabulary.encode_with_special_tokens_tf(tf.constant(questions))
  assert found.to_list() == reference(questions)["input_ids"]


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


# ------------------------------------------------- real questions, id by id


@pytest.fixture(scope="module")
def questions(shared_dir):
  """The dev questions of XOR-TyDi, in all seven languages."""
  path = shared_dir / "data/xor_tydi/xor_dev_retrieve_eng_span_v1_1.jsonl"
  questions = read_questions(path)
  counts = collections.Counter(question.language for question in questions)
  assert set(counts) == set(XOR_TYDI_LANGUAGES)
  return [question.question for question in questions]


def test_tokenizer_json_gives_the_ids_of_transformers(questions):
  folder = os.environ.get("XQG_E5_SMALL", "")
  if not pathlib.Path(folder, "tokenizer.json").is_file():
    pytest.skip("set XQG_E5_SMALL to the folder of multilingual-e5-small")
  vocabulary = load_vocabulary(folder)
  assert isinstance(vocabulary, HuggingFaceVocabulary)
  reference = transformers.AutoTokenizer.from_pretrained(folder)
  expected = reference(questions)["input_ids"]
  found = vocabulary.encode_with_special_tokens_tf(tf.constant(questions))
  assert found.to_list() == expected
  assert vocabulary.pad_id == reference.pad_token_id == 1


@pytest.fixture(scope="module")
def spiece_folder(questions, tmp_path_factory):
  """A model folder in mT5's form, with SentencePiece's own file."""
  folder = tmp_path_factory.mktemp("spiece")
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(questions),
    model_prefix=str(folder / "spiece"),
    vocab_size=4000,
    character_coverage=0.999,
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,
    minloglevel=2,
  )
  (folder / "config.json").write_text('{"model_type": "mt5"}')
  settings = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0}
  (folder / "tokenizer_config.json").write_text(json.dumps(settings))
  return folder


def test_sentencepiece_gives_the_ids_of_the_models_tokenizer(
  questions, spiece_folder
):
  vocabulary = load_vocabulary(spiece_folder)
  assert isinstance(vocabulary, seqio.SentencePieceVocabulary)
  found = [list(vocabulary.encode(text)) for text in questions]
  assert vocabulary.encode_tf(tf.constant(questions)).to_list() == found
  for load in (load_tokenizer, load_tokenizer_at):
    tokenizer = load(spiece_folder)
    rows = tokenizer.encode_batch(questions, max_length=10_000)
    assert [row.tolist() for row in rows] == [[*ids, 1] for ids in found]
    assert is_vocabulary_of(vocabulary, tokenizer)
  assert not is_vocabulary_of(vocabulary, make_tokenizer("t5"))


def test_sentinels_beyond_the_model_are_counted(spiece_folder, tmp_path):
  model = (spiece_folder / "spiece.model").read_bytes()
  (tmp_path / "spiece.model").write_bytes(model)
  (tmp_path / "tokenizer_config.json").write_text('{"extra_ids": 100}')
  assert load_vocabulary(tmp_path).vocab_size == 4100
  assert load_vocabulary(spiece_folder).vocab_size == 4000


def test_vocabularies_are_read_when_first_needed():
  vocabulary = load_vocabulary(MT5_SENTENCEPIECE)
  assert vocabulary == seqio.SentencePieceVocabulary(MT5_SENTENCEPIECE)
  with pytest.raises(InputError, match="no such folder"):
    _ = load_vocabulary("./nowhere").pad_id
  with pytest.raises(InputError, match="not found locally or on the hub"):
    _ = load_vocabulary("no-such-model").pad_id
