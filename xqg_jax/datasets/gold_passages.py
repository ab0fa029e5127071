"""XOR-TyDi's gold paragraphs, files in SQuAD's form, as training pairs."""

import gzip
import hashlib
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

from xqg_jax.data.json_lines import get_field
from xqg_jax.data.languages import get_language
from xqg_jax.data.passages import Passage
from xqg_jax.data.training_pairs import TrainingPair
from xqg_jax.datasets.reading.source_files import damaged_gzip_as_input_error
from xqg_jax.errors import InputError
from xqg_jax.io.paths import Path
from xqg_jax.io.typed_json import decode_json

# The files write a title as six characters, the article's title, and this.
_TITLE_END = "_parentSection"
_TITLE_START = 6


def read_gold_passages(path: Path, *, member: str) -> list[TrainingPair]:
  """Reads one file of gold paragraphs.

  A question that stands there several times becomes one pair with every
  paragraph, the first one first. Paragraphs have no ids of their own; theirs
  is a digest of title and text.

  Args:
    path: the zip archive, or the JSON file itself, plain or gzipped.
    member: name of the JSON file in the archive.

  Raises:
    InputError: a damaged file, JSON of another form, or a missing field.
  """
  where = f"{path}:{member}" if path.suffix == ".zip" else str(path)
  document = _parse(_read_bytes(path, member), where)
  pairs: dict[str, TrainingPair] = {}
  articles = get_field(document, "data", where)
  for number, article in enumerate(articles, start=1):
    for pair in _read_article(article, f"{where}, entry {number}"):
      first = pairs.get(pair.query_id)
      pairs[pair.query_id] = _merge(first, pair) if first else pair
  if not pairs:
    raise InputError("no questions in it", where=where, mend="check the file")
  return list(pairs.values())


def _read_bytes(path: Path, member: str) -> bytes:
  if path.suffix == ".gz":
    with damaged_gzip_as_input_error(path), gzip.open(path, "rb") as file:
      return file.read()
  if path.suffix != ".zip":
    return path.read_bytes()
  try:
    with zipfile.ZipFile(path) as archive:
      names = [n for n in archive.namelist() if _is_file(n, member)]
      if names:
        return archive.read(names[0])
  except zipfile.BadZipFile as error:
    raise InputError(
      f"damaged zip archive ({error})", where=path, mend="download it again"
    ) from None
  raise InputError(
    f"there is no {member} in the archive",
    where=path,
    mend="download it again",
  )


def _is_file(name: str, member: str) -> bool:
  # Archives made on a Mac hold a second, hidden entry for each file.
  return name.rsplit("/", 1)[-1] == member and "__MACOSX" not in name


def _parse(content: bytes, where: str) -> dict[str, Any]:
  return decode_json(
    content, dict[str, Any], where=where, mend="download it again"
  )


def _read_article(
  article: Mapping[str, Any], where: str
) -> Iterator[TrainingPair]:
  title = _clean_title(article.get("title") or "")
  for paragraph in get_field(article, "paragraphs", where):
    text = " ".join(get_field(paragraph, "context", where).split())
    if not text:
      raise InputError(
        "the paragraph is empty, so there is no positive passage",
        where=where,
        mend="remove the entry",
      )
    passage = Passage(_make_id(title, text), text, title)
    for question in get_field(paragraph, "qas", where):
      code = str(get_field(question, "lang", where)).strip()
      yield TrainingPair(
        query_id=str(get_field(question, "id", where)),
        query=get_field(question, "question", where).strip(),
        language=get_language(code, where=where).code,
        positives=(passage,),
        answers=tuple(
          get_field(answer, "text", where)
          for answer in get_field(question, "answers", where)
        ),
      )


def _clean_title(title: str) -> str:
  """The article's title, as the published pipeline reads it.

  >>> _clean_title("Title:Helsinki_parentSection:History")
  'Helsinki'
  >>> _clean_title("Helsinki")
  'Helsinki'
  """
  start, found, _ = title.strip().partition(_TITLE_END)
  return start[_TITLE_START:] if found else start


def _make_id(title: str, text: str) -> str:
  return hashlib.sha256(f"{title}\n{text}".encode()).hexdigest()[:16]


def _merge(first: TrainingPair, other: TrainingPair) -> TrainingPair:
  positives = dict.fromkeys((*first.positives, *other.positives))
  answers = dict.fromkeys((*first.answers, *other.answers))
  return TrainingPair(
    first.query_id,
    first.query,
    first.language,
    tuple(positives),
    answers=tuple(answers),
  )
