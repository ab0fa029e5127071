"""Languages and scripts."""

import pytest

from xqg_jax.data.languages import (
  _OUR_CODE,
  LANGUAGES,
  XOR_TYDI_LANGUAGES,
  get_language,
  is_in_script,
)
from xqg_jax.errors import InputError


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


def test_every_code_of_iso_639_1_and_any_of_three_letters():
  two = [code for code in LANGUAGES if len(code) == 2]
  assert len(two) == 183  # without "sh", which was withdrawn
  assert all(language.name for language in LANGUAGES.values())
  unknown = get_language("quy")
  assert (unknown.name, unknown.scripts) == ("quy", ())
  assert is_in_script("Maypitaq?", unknown)
  assert is_in_script("Где?", unknown)
  assert not is_in_script("1907", unknown)
  for code in ("swahili", "", "x", "1ab", "und", "mul", "xx", "ru ", "-ru"):
    with pytest.raises(InputError, match="two or three letters"):
      get_language(code)


@pytest.mark.parametrize(
  ("codes", "ours"),
  [
    (("rus", "RU", "ru-RU", "ru_RU.UTF-8", "ru-Cyrl"), "ru"),
    (("zho", "chi", "cmn", "zh-CN", "zh_TW", "zho-Hans", "zho_Hant"), "zh"),
    (("fas", "per", "pes", "fa-IR"), "fa"),
    (("ara", "arb", "AR", "arb_Arab"), "ar"),
    (("iw", "heb"), "he"),
    (("in", "ind"), "id"),
    (("ji", "yid"), "yi"),
    (("jw", "jav"), "jv"),
    (("jpn",), "ja"),
    (("kor",), "ko"),
    (("tel",), "te"),
    (("fin",), "fi"),
    (("ben",), "bn"),
    (("eng", "en-GB"), "en"),
    (("pt-BR", "por"), "pt"),
    (("deu", "ger", "de-AT"), "de"),
    (("CEB", "ceb-PH"), "ceb"),
    (("QUY",), "quy"),
  ],
)
def test_a_language_has_one_code(codes, ours):
  for code in codes:
    assert get_language(code) == get_language(ours)


def test_every_language_of_two_letters_has_one_of_three():
  by_ours = {}
  for code, ours in _OUR_CODE.items():
    assert code not in LANGUAGES, code
    by_ours.setdefault(ours, []).append(code)
  two = {code for code in LANGUAGES if len(code) == 2}
  assert two == {c for c, others in by_ours.items() if len(others[0]) == 3} - {
    "fil"
  }


@pytest.mark.parametrize(
  ("code", "text"),
  [
    ("sw", "Mto huo unaanzia wapi?"),
    ("de", "Wo entspringt der Fluss?"),
    ("or", "ନଦୀ କେଉଁଠାରୁ ଆରମ୍ଭ ହୁଏ?"),
    ("dv", "ކޮންތާކުން؟"),
    ("iu", "ᓇᑭᑦ?"),
    ("bo", "གང་ནས་འགོ་འཛུགས།"),
    ("ti", "ካበይ ይጅምር?"),
  ],
)
def test_scripts_of_languages_outside_the_seven(code, text):
  assert is_in_script(text, get_language(code))
