"""Invented names: built from syllables, spelled in English and seven scripts.

A name is two words of two or three syllables. Every syllable is written
differently from every other one in every script, so two names that differ in
English differ in each language too.
"""

import dataclasses

from xqg_jax.data.languages import XOR_TYDI_LANGUAGES
from xqg_jax.xor_mini.draws import Permutation

# English, then ar, bn, fi, ja, ko, ru, te. Arabic writes e like i, o like u,
# and p like b; Japanese l like r; Korean f like p, v like b and z like j;
# Russian and Telugu w like v. Of such pairs only one has each vowel here.
_TABLE = """
ka كا কা ka カ 카 ка కా
ki كي কি ki キ 키 ки కి
ko كو কো ko コ 코 ко కో
ga غا গা ga ガ 가 га గా
gi غي গি gi ギ 기 ги గి
gu غو গু gu グ 구 гу గు
ta تا টা ta タ 타 та టా
ti تي টি ti ティ 티 ти టి
tu تو টু tu トゥ 투 ту టు
da دا ডা da ダ 다 да డా
di دي ডি di ディ 디 ди డి
do دو ডো do ド 도 до డో
pi بي পি pi ピ 피 пи పి
po بو পো po ポ 포 по పో
ba با বা ba バ 바 ба బా
ma ما মা ma マ 마 ма మా
mi مي মি mi ミ 미 ми మి
mu مو মু mu ム 무 му ము
na نا না na ナ 나 на నా
ni ني নি ni ニ 니 ни ని
no نو নো no ノ 노 но నో
sa سا সা sa サ 사 са సా
so سو সো so ソ 소 со సో
zu زو জু zu ズ 주 зу జు
ja جا জা dža ジャ 자 джа జా
jo جو জো džo ジョ 조 джо జో
sha شا শা ša シャ 샤 ша షా
shi شي শি ši シ 시 ши షి
sho شو শো šo ショ 쇼 шо షో
cha تشا চা tša チャ 차 ча చా
chi تشي চি tši チ 치 чи చి
ha ها হা ha ハ 하 ха హా
he هي হে he ヘ 헤 хе హే
ho هو হো ho ホ 호 хо హో
ra را রা ra ラ 라 ра రా
ru رو রু ru ル 루 ру రు
li لي লি li リ 리 ли లి
lo لو লো lo ロ 로 ло లో
fa فا ফা fa ファ 파 фа ఫా
vi في ভি vi ヴィ 비 ви వి
vo فو ভো vo ヴォ 보 во వో
wa وا ওয়া va ワ 와 ва వా
we وي ওয়ে ve ウェ 웨 ве వే
ya يا ইয়া ja ヤ 야 я యా
yo يو ইয়ো jo ヨ 요 йо యో
"""

SYLLABLES: dict[str, dict[str, str]] = {
  row.split()[0]: dict(zip(XOR_TYDI_LANGUAGES, row.split()[1:], strict=True))
  for row in _TABLE.strip().splitlines()
}

# A word may end in n, the one final consonant that all seven scripts have.
_FINAL_N = {"ar": "ن", "bn": "ন", "fi": "n", "ja": "ン", "ru": "н", "te": "న్"}
_HANGUL_FINAL_N = 4  # what a final n adds to the code point of a block
_BETWEEN = {"ja": "・"}

# Syllables that together spell something rude in one of the languages.
_AVOIDED = ("nig", "fag", "jap", "shit", "tit", "magi", "loli")

_ENGLISH = tuple(SYLLABLES)
_NUM_SHORT_WORDS, _NUM_LONG_WORDS = 3072, 1024
NUM_WORDS = _NUM_SHORT_WORDS + _NUM_LONG_WORDS
NUM_NAMES = NUM_WORDS**2


@dataclasses.dataclass(frozen=True, slots=True)
class Word:
  """One word of a name: its syllables, and whether an n ends it."""

  syllables: tuple[str, ...]
  ends_in_n: bool

  @property
  def english(self) -> str:
    """The word in English spelling, with a capital."""
    return ("".join(self.syllables) + "n" * self.ends_in_n).capitalize()


Name = tuple[Word, Word]


def spell(name: Name) -> str:
  """A name in English.

  >>> spell((Word(("ka", "mi"), False), Word(("sho", "ta"), True)))
  'Kami Shotan'
  """
  return f"{name[0].english} {name[1].english}"


def transliterate(name: Name, language: str) -> str:
  """A name in the script of a language (one of `XOR_TYDI_LANGUAGES`).

  >>> name = (Word(("ka", "mi"), False), Word(("sho", "ta"), True))
  >>> transliterate(name, "ru"), transliterate(name, "ko")
  ('Ками Шотан', '카미 쇼탄')
  >>> transliterate(name, "fi"), transliterate(name, "ja")
  ('Kami Šotan', 'カミ・ショタン')
  """
  words = (_transliterate_word(word, language) for word in name)
  return _BETWEEN.get(language, " ").join(words)


def _transliterate_word(word: Word, language: str) -> str:
  text = "".join(SYLLABLES[s][language] for s in word.syllables)
  if word.ends_in_n and language == "ko":
    text = text[:-1] + chr(ord(text[-1]) + _HANGUL_FINAL_N)
  elif word.ends_in_n:
    text += _FINAL_N[language]
  # Leaves the scripts without capitals as they are.
  return text.capitalize()


class Names:
  """A numbering of all names of a seed, without repetition.

  `names[number]` for number in range(NUM_NAMES). Both words come from one
  pool of `NUM_WORDS`, so that many names share a word with others.
  """

  def __init__(self, seed: int):
    short = _make_words(2, _NUM_SHORT_WORDS, seed)
    long = _make_words(3, _NUM_LONG_WORDS, seed)
    self.words: tuple[Word, ...] = (*short, *long)
    self._english = tuple(word.english for word in self.words)
    self._shuffle = Permutation(NUM_NAMES, seed, "names")

  def __getitem__(self, number: int) -> Name:
    first, second = divmod(self._shuffle(number), NUM_WORDS)
    return self.words[first], self.words[second]

  def spell(self, number: int) -> str:
    """The same as `spell(self[number])`, faster."""
    first, second = divmod(self._shuffle(number), NUM_WORDS)
    return f"{self._english[first]} {self._english[second]}"


def _make_words(num_syllables: int, count: int, seed: int) -> list[Word]:
  shuffle = Permutation(
    2 * len(_ENGLISH) ** num_syllables, seed, "words", num_syllables
  )
  words: list[Word] = []
  for index in range(len(shuffle)):
    number, ends_in_n = divmod(shuffle(index), 2)
    syllables = []
    for _ in range(num_syllables):
      number, syllable = divmod(number, len(_ENGLISH))
      syllables.append(_ENGLISH[syllable])
    if not any(rude in "".join(syllables) for rude in _AVOIDED):
      words.append(Word(tuple(syllables), bool(ends_in_n)))
    if len(words) == count:
      break
  return words
