"""Languages: codes, English names for the prompt, and scripts.

The table holds the languages that mT5 was pre-trained on (Xue et al. 2021,
table 6) under their ISO 639-1 codes, as far as they have one.
"""

import dataclasses
import unicodedata
from collections.abc import Iterable

from xqg_jax.errors import InputError

XOR_TYDI_LANGUAGES = ("ar", "bn", "fi", "ja", "ko", "ru", "te")


@dataclasses.dataclass(frozen=True, slots=True)
class Language:
  """One language.

  Attributes:
    code: ISO 639-1 code.
    name: English name, as the prompt says it.
    scripts: first words of the Unicode names of its letters.
  """

  code: str
  name: str
  scripts: tuple[str, ...]


_TABLE = {
  "LATIN": (
    "af Afrikaans|az Azerbaijani|ca Catalan|co Corsican|cs Czech|cy Welsh|"
    "da Danish|de German|en English|eo Esperanto|es Spanish|et Estonian|"
    "eu Basque|fi Finnish|fr French|fy Frisian|ga Irish|gd Gaelic|"
    "gl Galician|ha Hausa|hr Croatian|ht Haitian|hu Hungarian|id Indonesian|"
    "ig Igbo|is Icelandic|it Italian|jv Javanese|ku Kurdish|la Latin|"
    "lb Luxembourgish|lt Lithuanian|lv Latvian|mg Malagasy|mi Maori|"
    "ms Malay|mt Maltese|nb Norwegian|nl Dutch|no Norwegian|ny Chichewa|"
    "pl Polish|pt Portuguese|ro Romanian|sk Slovak|sl Slovenian|sm Samoan|"
    "sn Shona|so Somali|sq Albanian|st Sotho|su Sundanese|sv Swedish|"
    "sw Swahili|tl Tagalog|tr Turkish|uz Uzbek|vi Vietnamese|xh Xhosa|"
    "yo Yoruba|zu Zulu"
  ),
  "CYRILLIC": (
    "be Belarusian|bg Bulgarian|kk Kazakh|ky Kyrgyz|mk Macedonian|"
    "mn Mongolian|ru Russian|sr Serbian|tg Tajik|uk Ukrainian"
  ),
  "ARABIC": "ar Arabic|fa Persian|ps Pashto|sd Sindhi|ur Urdu",
  "DEVANAGARI": "hi Hindi|mr Marathi|ne Nepali",
  "HEBREW": "he Hebrew|yi Yiddish",
  "BENGALI": "bn Bengali",
  "TELUGU": "te Telugu",
  "HANGUL": "ko Korean",
  "HIRAGANA KATAKANA CJK": "ja Japanese",
  "CJK": "zh Chinese",
  "ETHIOPIC": "am Amharic",
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
}


def _read_table() -> dict[str, Language]:
  languages = {}
  for scripts, entries in _TABLE.items():
    for entry in filter(None, entries.split("|")):
      code, name = entry.split(" ", 1)
      languages[code] = Language(code, name, tuple(scripts.split()))
  return languages


LANGUAGES = _read_table()


def get_language(code: str, *, where: object = None) -> Language:
  """Looks a language up by its code.

  Raises:
    InputError: no such language.

  >>> get_language("te").name
  'Telugu'
  """
  try:
    return LANGUAGES[code]
  except KeyError:
    raise InputError(
      f"unknown language {code!r}",
      where=where,
      mend="use an ISO 639-1 code such as " + ", ".join(XOR_TYDI_LANGUAGES),
    ) from None


def get_languages(codes: Iterable[str]) -> tuple[Language, ...]:
  """Looks several languages up, in the order given."""
  return tuple(get_language(code) for code in codes)


def is_in_script(text: str, language: Language) -> bool:
  """Whether at least half of the letters of `text` are in the right script.

  Text without letters is in no script.

  >>> is_in_script("Где родился Камору?", LANGUAGES["ru"])
  True
  >>> is_in_script("Where?", LANGUAGES["ru"])
  False
  """
  names = [unicodedata.name(c, "").split(" ")[0] for c in text if c.isalpha()]
  inside = sum(name in language.scripts for name in names)
  return bool(names) and 2 * inside >= len(names)
