"""Languages: codes, English names for the prompt, and scripts.

The table holds every code of ISO 639-1, and of mT5's languages (Xue et al.
2021, table 6) the ones that have a code of three letters only. Any other code
of three letters (ISO 639-3) is taken, too: it is its own name in prompts, and
any script will do.
"""

import dataclasses
import functools
import importlib.util
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from xqg_jax.errors import InputError

XOR_TYDI_LANGUAGES = ("ar", "bn", "fi", "ja", "ko", "ru", "te")


@dataclasses.dataclass(frozen=True, slots=True)
class Language:
  """One language.

  Attributes:
    code: of ISO 639, two or three letters.
    name: English name, as the prompt says it.
    scripts: first words of the Unicode names of its letters; empty: any.
  """

  code: str
  name: str
  scripts: tuple[str, ...]


_TABLE = {
  "LATIN": (
    "aa Afar|af Afrikaans|ak Akan|an Aragonese|ay Aymara|az Azerbaijani|"
    "bi Bislama|bm Bambara|br Breton|bs Bosnian|ca Catalan|ceb Cebuano|"
    "ch Chamorro|co Corsican|cs Czech|cy Welsh|da Danish|de German|ee Ewe|"
    "en English|eo Esperanto|es Spanish|et Estonian|eu Basque|ff Fulah|"
    "fi Finnish|fil Filipino|fj Fijian|fo Faroese|fr French|fy Frisian|"
    "ga Irish|gd Gaelic|gl Galician|gn Guarani|gv Manx|ha Hausa|haw Hawaiian|"
    "hmn Hmong|ho Hiri Motu|hr Croatian|ht Haitian|hu Hungarian|hz Herero|"
    "ia Interlingua|id Indonesian|ie Interlingue|ig Igbo|ik Inupiaq|io Ido|"
    "is Icelandic|it Italian|jv Javanese|kg Kongo|ki Kikuyu|kj Kuanyama|"
    "kl Greenlandic|kr Kanuri|ku Kurdish|kw Cornish|la Latin|"
    "lb Luxembourgish|lg Ganda|li Limburgish|ln Lingala|lt Lithuanian|"
    "lu Luba-Katanga|lv Latvian|mg Malagasy|mh Marshallese|mi Maori|ms Malay|"
    "mt Maltese|na Nauru|nb Norwegian|nd North Ndebele|ng Ndonga|nl Dutch|"
    "nn Norwegian Nynorsk|no Norwegian|nr South Ndebele|nv Navajo|"
    "ny Chichewa|oc Occitan|om Oromo|pl Polish|pt Portuguese|qu Quechua|"
    "rm Romansh|rn Rundi|ro Romanian|rw Kinyarwanda|sc Sardinian|"
    "se Northern Sami|sg Sango|sk Slovak|sl Slovenian|sm Samoan|sn Shona|"
    "so Somali|sq Albanian|ss Swati|st Sotho|su Sundanese|sv Swedish|"
    "sw Swahili|tk Turkmen|tl Tagalog|tn Tswana|to Tongan|tr Turkish|"
    "ts Tsonga|tw Twi|ty Tahitian|uz Uzbek|ve Venda|vi Vietnamese|"
    "vo Volapük|wa Walloon|wo Wolof|xh Xhosa|yo Yoruba|za Zhuang|zu Zulu"
  ),
  "CYRILLIC": (
    "ab Abkhazian|av Avaric|ba Bashkir|be Belarusian|bg Bulgarian|"
    "ce Chechen|cu Church Slavonic|cv Chuvash|kk Kazakh|kv Komi|ky Kyrgyz|"
    "mk Macedonian|mn Mongolian|os Ossetian|ru Russian|sr Serbian|tg Tajik|"
    "tt Tatar|uk Ukrainian"
  ),
  "ARABIC": (
    "ar Arabic|fa Persian|ks Kashmiri|ps Pashto|sd Sindhi|ug Uyghur|ur Urdu"
  ),
  "DEVANAGARI": "hi Hindi|mr Marathi|ne Nepali|sa Sanskrit",
  "HEBREW": "he Hebrew|yi Yiddish",
  "BENGALI": "as Assamese|bn Bengali",
  "TELUGU": "te Telugu",
  "HANGUL": "ko Korean",
  "HIRAGANA KATAKANA CJK": "ja Japanese",
  "CJK": "zh Chinese",
  "ETHIOPIC": "am Amharic|ti Tigrinya",
  "TIBETAN": "bo Tibetan|dz Dzongkha",
  "CANADIAN": "cr Cree|iu Inuktitut|oj Ojibwe",
  "THAANA": "dv Divehi",
  "YI": "ii Sichuan Yi",
  "ORIYA": "or Odia",
  "AVESTAN": "ae Avestan",
  "GREEK": "el Greek",
  "GUJARATI": "gu Gujarati",
  "ARMENIAN": "hy Armenian",
  "GEORGIAN": "ka Georgian",
  "KHMER": "km Khmer",
  "KANNADA": "kn Kannada",
  "LAO": "lo Lao",
  "MALAYALAM": "ml Malayalam",
  "MYANMAR": "my Burmese",
  "GURMUKHI": "pa Punjabi",
  "SINHALA": "si Sinhala",
  "TAMIL": "ta Tamil",
  "THAI": "th Thai",
  "": "pi Pali",  # in any of the scripts of its readers
}


def _read_table() -> dict[str, Language]:
  languages = {}
  for scripts, entries in _TABLE.items():
    for entry in filter(None, entries.split("|")):
      code, name = entry.split(" ", 1)
      languages[code] = Language(code, name, tuple(scripts.split()))
  return languages


LANGUAGES = _read_table()
_THREE_LETTERS = re.compile("[a-z]{3}")


def get_language(code: str, *, where: object = None) -> Language:
  """Looks a language up by its code.

  Raises:
    InputError: no such language.

  >>> get_language("te").name
  'Telugu'
  >>> get_language("quy").name
  'quy'
  """
  if code in LANGUAGES:
    return LANGUAGES[code]
  if _THREE_LETTERS.fullmatch(code):
    return Language(code, code, ())
  raise InputError(
    f"unknown language {code!r}",
    where=where,
    mend="use a code of ISO 639, two or three small letters, such as "
    + ", ".join(XOR_TYDI_LANGUAGES),
  )


def get_languages(codes: Iterable[str]) -> tuple[Language, ...]:
  """Looks several languages up, in the order given."""
  return tuple(get_language(code) for code in codes)


def is_in_script(text: str, language: Language) -> bool:
  """Whether at least half of the letters of `text` are in the right script.

  Text without letters is in no script; for a language without known scripts
  any will do.

  >>> is_in_script("Где родился Камору?", LANGUAGES["ru"])
  True
  >>> is_in_script("Where?", LANGUAGES["ru"])
  False
  """
  names = [unicodedata.name(c, "").split(" ")[0] for c in text if c.isalpha()]
  if not language.scripts:
    return bool(names)
  inside = sum(name in language.scripts for name in names)
  return bool(names) and 2 * inside >= len(names)


def identify_language(text: str, languages: Sequence[str]) -> str | None:
  """The likeliest of some languages for a text, by py3langid's model.

  Args:
    text: a question.
    languages: codes to choose among; those that the model lacks are left out.

  Returns:
    A code; None without letters, without a language to choose, or where the
    extra `langid` is not installed.
  """
  identifier, known = _load_identifier(tuple(languages))
  if identifier is None or not any(c.isalpha() for c in text):
    return None
  return identifier.classify(text)[0] if len(known) > 1 else known[0]


@functools.cache
def _load_identifier(
  languages: tuple[str, ...],
) -> tuple[Any | None, list[str]]:
  """A model of its own for each choice of languages."""
  try:
    from py3langid import langid
  except ModuleNotFoundError:
    return None, []
  identifier = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE)
  known = [code for code in languages if code in set(identifier.labels)]
  if not known:
    return None, []
  identifier.set_languages(known)
  return identifier, known


def can_identify_languages() -> bool:
  """Whether the extra `langid` is installed."""
  return importlib.util.find_spec("py3langid") is not None
