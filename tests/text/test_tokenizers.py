"""Tokenizers against transformers, and their files."""

import json

import numpy as np
import pytest
import tokenizers

from xqg_jax.errors import InputError
from xqg_jax.text.tokenizer import Tokenizer, load_tokenizer
from xqg_jax.text.tokenizer_training import train_tokenizer

TEXTS = [
  "the river runs past the old mill",
  "the old miller counts seven rivers",
  "река течёт мимо старой мельницы",
  "古い水車小屋のそばを川が流れる",
  "강은 오래된 방앗간을 지나 흐른다",
  "يجري النهر بجانب الطاحونة القديمة",
]


@pytest.fixture(scope="module", params=["bert", "t5"])
def trained(request) -> Tokenizer:
  return train_tokenizer(TEXTS, vocab_size=200, style=request.param)


def test_training_twice_gives_the_same_tokenizer():
  first, second = (
    train_tokenizer(iter(TEXTS), vocab_size=150, style="bert") for _ in range(2)
  )
  assert first.fingerprint == second.fingerprint
  other = train_tokenizer(TEXTS[1:], vocab_size=150, style="bert")
  assert first.fingerprint != other.fingerprint


def test_bert_style_ids():
  tokenizer = train_tokenizer(TEXTS, vocab_size=200, style="bert")
  assert (tokenizer.pad_id, tokenizer.eos_id) == (0, None)
  (ids,) = tokenizer.encode_batch(["the old mill"], max_length=32)
  assert (ids[0], ids[-1]) == (2, 3)
  (unknown,) = tokenizer.encode_batch(["☃"], max_length=32)
  assert 1 in unknown
  assert ids.dtype == np.int32


def test_t5_style_ids():
  tokenizer = train_tokenizer(TEXTS, vocab_size=200, style="t5")
  assert (tokenizer.pad_id, tokenizer.eos_id) == (0, 1)
  (ids,) = tokenizer.encode_batch(["the old mill"], max_length=32)
  assert ids[-1] == 1
  assert not {0, 1, 2} & set(ids[:-1].tolist())


def test_decoding_gives_the_text_back(trained):
  ids = trained.encode_batch(TEXTS, max_length=1000)
  assert trained.decode_batch(ids) == TEXTS


def test_text_is_nfkc_and_spaces_collapse(trained):
  plain, odd = trained.encode_batch(
    ["the old mill", " ｔｈｅ   old\n\tmill "], max_length=64
  )
  np.testing.assert_array_equal(plain, odd)


@pytest.mark.parametrize("max_length", [3, 5, 8, 64])
def test_truncation_equals_transformers(trained, tmp_path, max_length):
  transformers = pytest.importorskip(
    "transformers", reason="compares with transformers"
  )
  trained.save(tmp_path)
  reference = transformers.AutoTokenizer.from_pretrained(tmp_path)
  expected = reference(TEXTS, max_length=max_length, truncation=True)
  found = trained.encode_batch(TEXTS, max_length=max_length)
  assert [ids.tolist() for ids in found] == expected.input_ids
  assert max(map(len, found)) <= max_length


def test_saving_and_loading_keeps_everything(trained, tmp_path):
  trained.encode_batch(TEXTS, max_length=7)
  trained.save(tmp_path)
  loaded = load_tokenizer(tmp_path)
  assert loaded.fingerprint == trained.fingerprint
  for name in ("pad_id", "eos_id", "vocab_size", "special_tokens"):
    assert getattr(loaded, name) == getattr(trained, name)


def test_fingerprint_ignores_truncation_and_padding(trained, tmp_path):
  trained.save(tmp_path)
  before = load_tokenizer(tmp_path).fingerprint
  path = tmp_path / "tokenizer.json"
  backend = tokenizers.Tokenizer.from_file(str(path))
  backend.enable_truncation(9)
  backend.enable_padding(length=9)
  backend.save(str(path))
  loaded = load_tokenizer(tmp_path)
  assert loaded.fingerprint == before
  loaded.encode_batch(["the mill"], max_length=5)
  assert loaded.fingerprint == before
  (ids,) = loaded.encode_batch(["the"], max_length=64)
  assert len(ids) < 9


def test_vocab_size_covers_the_highest_id():
  backend = tokenizers.Tokenizer(
    tokenizers.models.WordLevel({"[PAD]": 0, "far": 41}, unk_token="[PAD]")
  )
  assert Tokenizer(backend, {}).vocab_size == 42


def test_special_tokens_may_be_objects(trained, tmp_path):
  trained.save(tmp_path)
  settings = tmp_path / "tokenizer_config.json"
  name = trained.special_tokens["pad_token"]
  settings.write_text(
    json.dumps({"pad_token": {"content": name, "lstrip": False}})
  )
  assert load_tokenizer(tmp_path).pad_id == 0


def test_vocab_txt_is_converted(tmp_path):
  pytest.importorskip("transformers", reason="converts by transformers")
  words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "old", "mill", "##er"]
  (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
  (tmp_path / "config.json").write_text('{"model_type": "bert"}')
  tokenizer = load_tokenizer(tmp_path)
  (ids,) = tokenizer.encode_batch(["old miller"], max_length=16)
  assert ids.tolist() == [2, 5, 6, 7, 3]
  assert (tokenizer.pad_id, tokenizer.vocab_size) == (0, 8)


def test_missing_and_broken_tokenizers_are_input_errors(tmp_path):
  with pytest.raises(InputError, match="no such folder"):
    load_tokenizer(tmp_path / "absent")
  (tmp_path / "tokenizer.json").write_text('{"model"')
  with pytest.raises(InputError, match=r"tokenizer\.json: not a tokenizer"):
    load_tokenizer(tmp_path)


def test_no_tokenizer_at_all_is_an_input_error(tmp_path):
  with pytest.raises(InputError, match=r"no tokenizer\.json"):
    load_tokenizer(tmp_path)


def test_no_padding_token_is_an_input_error():
  backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, "a"))
  with pytest.raises(InputError, match="no padding token"):
    Tokenizer(backend, {})
