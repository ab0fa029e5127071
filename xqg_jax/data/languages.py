"""Languages: codes, English names for the prompt, and scripts.

The table holds every code of ISO 639-1, and of mT5's languages (Xue et al.
2021, table 6) the ones that have a code of three letters only. A language has
one code here, whatever a file calls it: `rus`, `RU`, `ru-RU` and `ru_RU` are
`ru`. Any other code of three letters (ISO 639-3) is taken, too: it is its own
name in prompts, and any script will do.
"""

import dataclasses
import functools
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


# Codes of ISO 639-2 and 639-3 of the languages above. Of two codes, such as
# Persian's fas and per, both stand here; so do the dialects and written forms
# that collections label as the language (arb Arabic, cmn Chinese), and codes
# that ISO has withdrawn (iw Hebrew).
_OTHER_CODES = """
aa aar|ab abk|ae ave|af afr|ak aka|am amh|an arg|ar ara arb|as asm|av ava|
ay aym|az aze azj|ba bak|be bel|bg bul|bi bis|bm bam|bn ben|bo bod tib|br bre|
bs bos|ca cat|ce che|ch cha|co cos|cr cre|cs ces cze|cu chu|cv chv|cy cym wel|
da dan|de deu ger|dv div|dz dzo|ee ewe|el ell gre|en eng|eo epo|es spa|
et est ekk|eu eus baq|fa fas per pes|ff ful|fi fin|fj fij|fo fao|fr fra fre|
fy fry|ga gle|gd gla|gl glg|gn grn|gu guj|gv glv|ha hau|he heb iw|hi hin|
ho hmo|hr hrv|ht hat|hu hun|hy hye arm|hz her|ia ina|id ind in|ie ile|ig ibo|
ii iii|ik ipk|io ido|is isl ice|it ita|iu iku|ja jpn|jv jav jw|ka kat geo|
kg kon|ki kik|kj kua|kk kaz|kl kal|km khm|kn kan|ko kor|kr kau|ks kas|
ku kur kmr|kv kom|kw cor|ky kir|la lat|lb ltz|lg lug|li lim|ln lin|lo lao|
lt lit|lu lub|lv lav lvs|mg mlg plt|mh mah|mi mri mao|mk mkd mac|ml mal|
mn mon khk|mr mar|ms msa may zsm|mt mlt|my mya bur|na nau|nb nob|nd nde|
ne nep npi|ng ndo|nl nld dut|nn nno|no nor|nr nbl|nv nav|ny nya|oc oci|oj oji|
om orm gaz|or ori ory|os oss|pa pan|pi pli|pl pol|ps pus pbt|pt por|qu que|
rm roh|rn run|ro ron rum mo|ru rus|rw kin|sa san|sc srd|sd snd|se sme|sg sag|
si sin|sk slk slo|sl slv|sm smo|sn sna|so som|sq sqi alb als|sr srp|ss ssw|
st sot|su sun|sv swe|sw swa swh|ta tam|te tel|tg tgk|th tha|ti tir|tk tuk|
tl tgl|tn tsn|to ton|tr tur|ts tso|tt tat|tw twi|ty tah|ug uig|uk ukr|ur urd|
uz uzb uzn|ve ven|vi vie|vo vol|wa wln|wo wol|xh xho|yi yid ydd ji|yo yor|
za zha|zh zho chi cmn|zu zul
"""
_NO_LANGUAGES = ("und", "mul", "mis", "zxx")


def _read_other_codes() -> dict[str, str]:
  """Our code by every other."""
  ours = {}
  for entry in "".join(_OTHER_CODES.split("\n")).split("|"):
    code, *others = entry.split()
    ours |= dict.fromkeys(others, code)
  return ours


LANGUAGES = _read_table()
_OUR_CODE = _read_other_codes()
# A language, maybe with script, region or variant, as BCP 47 and locales
# write them: zh-CN, pt_BR, zho-Hans, sr-Latn-RS, en_US.UTF-8.
_TAG = re.compile(r"([A-Za-z]{2,3})([-_][A-Za-z0-9]+)*(\.[\w-]+)?")


def get_language(code: str, *, where: object = None) -> Language:
  """Looks a language up by its code, of whichever form.

  Raises:
    InputError: no such language.

  >>> get_language("te").name
  'Telugu'
  >>> [get_language(code).code for code in ("rus", "zh-CN", "AR", "iw")]
  ['ru', 'zh', 'ar', 'he']
  >>> get_language("quy").name
  'quy'
  """
  if code in LANGUAGES:
    return LANGUAGES[code]
  tag = _TAG.fullmatch(code)
  base = tag[1].lower() if tag else ""
  base = _OUR_CODE.get(base, base)
  if base in LANGUAGES:
    return LANGUAGES[base]
  if len(base) == 3 and base not in _NO_LANGUAGES:
    return Language(base, base, ())
  raise InputError(
    f"unknown language {code!r}",
    where=where,
    mend="use a code of ISO 639, two or three letters, such as "
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
    # An extra, which may be absent.
    from py3langid import langid  # pyright: ignore[reportMissingImports]
  except ModuleNotFoundError:
    return None, []
  identifier = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE)
  known = [code for code in languages if code in set(identifier.labels)]
  if not known:
    return None, []
  identifier.set_languages(known)
  return identifier, known
