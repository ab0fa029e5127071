"""SentencePiece models: the same ids as by their own library."""

import numpy as np
import pytest

from xqg_jax.checkpoints.t5x.networks import load_tokenizer_at
from xqg_jax.data.questions import read_questions
from xqg_jax.errors import InputError
from xqg_jax.text.sentencepiece import read_sentencepiece

SENTENCES = [
  "The old mill stood by the river until 1820.",
  "Milloin vanha mylly rakennettiin?",
  "古い水車小屋はいつ建てられましたか？",
  "متى بنيت الطاحونة القديمة؟",
  "Когда была построена старая мельница?",
]
ODD = ["", "  two  spaces ", "ﬁne ½ Ⅳ\u3000wide", "tab\tend\n", "😀 \U00020000"]


@pytest.fixture(scope="module")
def library():
  return pytest.importorskip(
    "sentencepiece", reason="the reference: pip install 'xqg_jax[tasks]'"
  )


def _train(library, folder, texts, **options):
  (folder / "texts.txt").write_text("\n".join(texts), encoding="utf-8")
  options = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1} | options
  library.SentencePieceTrainer.train(
    input=str(folder / "texts.txt"),
    model_prefix=str(folder / "sentencepiece"),
    minloglevel=2,
    **{"vocab_size": 120, "hard_vocab_limit": False} | options,
  )
  return folder / "sentencepiece.model"


def _assert_same_ids(library, path, texts):
  tokenizer = load_tokenizer_at(path)
  reference = library.SentencePieceProcessor(model_file=str(path))
  assert tokenizer.vocab_size == reference.get_piece_size()
  found = tokenizer.encode_batch(texts, max_length=10_000)
  for text, ids in zip(texts, found, strict=True):
    np.testing.assert_array_equal(ids, [*reference.encode(text), 1], text)
  return tokenizer


@pytest.mark.parametrize(
  "options",
  [
    {},
    {"user_defined_symbols": ["<extra_id_0>", "<extra_id_1>"]},
    {"normalization_rule_name": "identity"},
  ],
)
def test_ids_are_those_of_the_library(library, tmp_path, options):
  path = _train(library, tmp_path, SENTENCES, **options)
  tokenizer = _assert_same_ids(library, path, SENTENCES + ODD)
  assert (tokenizer.pad_id, tokenizer.eos_id) == (0, 1)
  by_folder = load_tokenizer_at(tmp_path)
  assert by_folder.fingerprint == tokenizer.fingerprint
  ids = tokenizer.encode_batch(SENTENCES, max_length=999)
  assert tokenizer.decode_batch(ids)[:2] == SENTENCES[:2]


def test_ids_of_real_questions_are_those_of_the_library(
  library, tmp_path, shared_dir
):
  file = (
    shared_dir / "data" / "xor_tydi" / "xor_dev_retrieve_eng_span_v1_1.jsonl"
  )
  texts = [question.question for question in read_questions(file)]
  path = _train(library, tmp_path, texts[::2], vocab_size=4000)
  _assert_same_ids(library, path, texts)
  assert len(texts) == 2110


def test_other_files_are_refused(library, tmp_path):
  path = _train(library, tmp_path, SENTENCES)
  content = path.read_bytes()
  for damaged in (b"", b"text", content[: len(content) // 2], content[:-1]):
    with pytest.raises(InputError, match="here: not a SentencePiece model"):
      read_sentencepiece(damaged, where="here")
  # Numbers in the place of messages; a piece without text; text as unk_id.
  wrongs = [bytes([number << 3, 7]) for number in (1, 2, 3)]
  wrongs += [b"\x0a\x02\x08\x07", b"\x12\x04\xc2\x02\x01x"]
  for wrong in wrongs:
    with pytest.raises(InputError, match="here: not a SentencePiece model"):
      read_sentencepiece(content + wrong, where="here")
  path = _train(library, tmp_path, SENTENCES, model_type="bpe")
  with pytest.raises(InputError, match="another kind than unigram"):
    load_tokenizer_at(path)
