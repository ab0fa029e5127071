"""Languages and scripts."""

import pytest

from xqg_jax.errors import InputError
from xqg_jax.languages import (
  LANGUAGES,
  XOR_TYDI_LANGUAGES,
  get_language,
  is_in_script,
)


def test_prompt_names_of_the_seven():
  names = [get_language(code).name for code in XOR_TYDI_LANGUAGES]
  assert names == [
    "Arabic",
    "Bengali",
    "Finnish",
    "Japanese",
    "Korean",
    "Russian",
    "Telugu",
  ]


@pytest.mark.parametrize(
  ("code", "text"),
  [
    ("ar", "أين ولد؟"),
    ("bn", "কোথায় জন্ম?"),
    ("fi", "Missä hän syntyi?"),
    ("ja", "どこで生まれましたか"),
    ("ko", "어디에서 태어났나요?"),
    ("ru", "Где родился?"),
    ("te", "ఎక్కడ జన్మించారు?"),
  ],
)
def test_a_sentence_is_in_its_own_script_only(code, text):
  inside = {c for c in XOR_TYDI_LANGUAGES if is_in_script(text, LANGUAGES[c])}
  assert inside == {code}


def test_half_of_the_letters_decide():
  assert is_in_script("ab где", LANGUAGES["ru"])
  assert not is_in_script("abcd где", LANGUAGES["ru"])
  assert not is_in_script("1907 ?", LANGUAGES["ru"])


def test_unknown_language_is_told_with_its_place():
  with pytest.raises(InputError, match=r"q\.jsonl:3: unknown language 'xx'"):
    get_language("xx", where="q.jsonl:3")
