"""Tables of the tokens that a language's queries may hold."""

import gzip
import json

import numpy as np
import pytest

from xqg_jax.data.languages import get_languages
from xqg_jax.errors import InputError
from xqg_jax.generation.output_vocabulary import (
  join_vocabularies,
  make_language_vocabularies,
  make_vocabulary_mask,
  read_texts,
)
from xqg_jax.text.tokenizer_training import train_tokenizer

TEXTS = {
  "fi": ["missä joki on", "mikä joki virtaa"],
  "ru": ["где река", "какая река течёт"],
}
ENGLISH = ["where is the river", "which river flows 19 times (or 20)?"]


@pytest.fixture(scope="module")
def tokenizer():
  texts = [*TEXTS["fi"], *TEXTS["ru"], *ENGLISH, "ö ü и ю я 川 ক"]
  return train_tokenizer(texts * 2, vocab_size=160, style="t5")


@pytest.fixture
def files(tmp_path):
  for language, texts in TEXTS.items():
    (tmp_path / f"{language}.txt").write_text("\n".join(texts), "utf-8")
  return {language: str(tmp_path / f"{language}.txt") for language in TEXTS}


def _make(tokenizer, source, languages=("fi", "ru")):
  return make_language_vocabularies(
    tokenizer,
    source,
    get_languages(languages),
    vocab_size=tokenizer.vocab_size + 5,
  )


def _ids(tokenizer, text):
  (row,) = tokenizer.encode_batch([text], max_length=1000)
  return row.tolist()


def test_tables_hold_the_texts_letters_and_the_end(tokenizer, files):
  tables = _make(tokenizer, files)
  for language, texts in TEXTS.items():
    ids = set(tables[language].token_ids.tolist())
    assert tokenizer.eos_id in ids
    assert all(ids.issuperset(_ids(tokenizer, text)) for text in texts)
    assert not ids & {tokenizer.pad_id, 2}
    assert max(ids) < tokenizer.vocab_size
    assert tables[language].num_texts == 2
    assert (np.diff(tables[language].token_ids) > 0).all()


@pytest.mark.parametrize(
  ("character", "languages"),
  [
    ("ö", {"fi"}),
    ("ю", {"ru"}),
    ("w", {"fi", "ru"}),
    ("9", {"fi", "ru"}),
    ("(", {"fi", "ru"}),
    ("川", set()),
    ("ক", set()),
  ],
)
def test_single_characters_go_by_script(tokenizer, files, character, languages):
  tables = _make(tokenizer, files)
  (token,) = [
    token
    for token in _ids(tokenizer, character)
    if tokenizer.decode_batch([[token]])[0].strip() == character
  ]
  found = {code for code in tables if token in tables[code].token_ids}
  assert found == languages


def test_longer_tokens_of_other_languages_are_left_out(tokenizer, files):
  ids = set(_ids(tokenizer, "where river"))
  words = {t for t in ids if len(tokenizer.decode_batch([[t]])[0]) > 2}
  assert words
  table = _make(tokenizer, files)["ru"]
  assert not words & set(table.token_ids.tolist())


def test_the_held_out_share_counts_what_others_lack(tokenizer, tmp_path):
  path = tmp_path / "fi.txt"
  path.write_text("\n".join(["joki"] * 9 + ["virtaa joki"]), "utf-8")
  table = _make(tokenizer, {"fi": str(path)}, ("fi",))["fi"]
  row = _ids(tokenizer, "virtaa joki")
  lacking = set(row) - set(_ids(tokenizer, "joki"))
  assert lacking
  share = sum(token in lacking for token in row) / len(row)
  assert table.unseen_share == pytest.approx(share)


def test_the_joined_table_says_what_each_language_has(tokenizer, files):
  tables = _make(tokenizer, files)
  ids, allowed = join_vocabularies(tables)
  assert len(ids) % 1024 == 0
  for row, table in zip(allowed, tables.values(), strict=True):
    np.testing.assert_array_equal(ids[row], table.token_ids)
  mask = make_vocabulary_mask(tokenizer, tokenizer.vocab_size)
  assert mask[ids[allowed.any(axis=0)]].all()


# ----------------------------------------------------------------------- texts


@pytest.mark.parametrize(
  "make_row",
  [
    lambda text: {"question": text, "lang": " fi"},
    lambda text: {"query": text, "lang": "fi", "positive_passages": []},
    lambda text: {"docid": "1", "generated_queries": {"fi": [text]}},
  ],
  ids=["questions", "pairs", "generated queries"],
)
@pytest.mark.parametrize("is_folder", [False, True])
def test_texts_come_from_files_of_three_kinds(tmp_path, make_row, is_folder):
  rows = [make_row(text) for text in TEXTS["fi"]]
  rows.append({"question": "где", "lang": "ru"})
  path = tmp_path / "texts.jsonl.gz"
  with gzip.open(path, "wt", encoding="utf-8") as file:
    file.writelines(json.dumps(row) + "\n" for row in rows)
  source = str(tmp_path if is_folder else path)
  assert list(read_texts(source, "fi")) == TEXTS["fi"]
  assert list(read_texts(source, "ru")) == ["где"]


def test_a_language_without_text_is_refused(tokenizer, files):
  with pytest.raises(InputError, match="no text in Telugu"):
    _make(tokenizer, files, ("fi", "te"))
