"""Passages, questions and generated queries, and their files.

Readers stream, name file and line of whatever is wrong, and accept `.gz`.
"""

import csv
import dataclasses
import io
import json
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from xqg_jax.errors import InputError
from xqg_jax.files import read_lines
from xqg_jax.languages import get_language
from xqg_jax.seen_ids import SeenIds

TSV_HEADER = ("id", "text", "title")


@dataclasses.dataclass(frozen=True, slots=True)
class Passage:
  """The unit retrieved: a block of text, about 100 words, with its title."""

  passage_id: str
  text: str
  title: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
  """A user's question of XOR-TyDi form; `answers` are English strings."""

  question_id: str
  question: str
  language: str
  answers: tuple[str, ...] = ()
  split: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class GeneratedQueries:
  """The generated queries of one passage, by language code."""

  passage_id: str
  queries: Mapping[str, tuple[str, ...]]


# ------------------------------------------------------------------ passages


def read_passages(
  path: str | pathlib.Path,
  *,
  on_empty: Callable[[str, Passage], object] | None = None,
) -> Iterator[Passage]:
  """Streams passages from DPR TSV (`id, text, title`) or JSONL, in file order.

  TSV: an optional header line, fields optionally quoted as in DPR's files.
  JSONL: `docid`, `text`, `title`. The format follows the suffix
  (`.tsv`, `.jsonl`, each also with `.gz`).

  Args:
    path: the file, or a folder of such files, taken in order of name.
    on_empty: told `file:line` and passage where a text is empty; the passage
      is then left out.

  Raises:
    InputError: file missing or empty, a malformed line, an empty text without
      `on_empty`, or an id that stands twice; the message names file and line.
  """
  seen, is_empty = SeenIds(), True
  for file in list_passage_files(path):
    is_tsv = file.name.endswith((".tsv", ".tsv.gz"))
    parse = _parse_tsv_passages if is_tsv else _parse_json_passages
    for where, passage in parse(file):
      is_empty = False
      _check_passage(passage, seen, where)
      if passage.text.strip():
        yield passage
      elif on_empty is not None:
        on_empty(where, passage)
      else:
        raise InputError(
          f"passage {passage.passage_id!r} has an empty text",
          where=where,
          mend="remove the line or fill in its text",
        )
  if is_empty:
    raise InputError("no passages in it", where=path, mend="check the file")


_PASSAGE_SUFFIXES = (".tsv", ".jsonl", ".tsv.gz", ".jsonl.gz")


def list_passage_files(path: str | pathlib.Path) -> list[pathlib.Path]:
  """The files of passages in a folder in order of name, or the one itself.

  Raises:
    InputError: a folder without any, or a name of another form.
  """
  path = pathlib.Path(path)
  files = sorted(path.iterdir()) if path.is_dir() else [path]
  files = [file for file in files if file.name.endswith(_PASSAGE_SUFFIXES)]
  if files:
    return files
  if path.is_dir():
    what = "no file of passages in the folder"
  else:
    end = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    what = f"cannot tell the format of passages from the suffix {end!r}"
  raise InputError(
    what, where=path, mend="use .tsv or .jsonl, optionally with .gz"
  )


def _check_passage(passage: Passage, seen: SeenIds, where: str) -> None:
  if not seen.add(passage.passage_id):
    raise InputError(
      f"passage id {passage.passage_id!r} stands twice",
      where=where,
      mend="give each passage an id of its own",
    )
  try:
    f"{passage.passage_id} {passage.title} {passage.text}".encode()
  except UnicodeEncodeError as error:
    raise InputError(
      f"passage {passage.passage_id!r} holds half a character "
      f"({error.object[error.start]!a})",
      where=where,
      mend="write characters beyond U+FFFF as two halves, or as themselves",
    ) from None


def _parse_tsv_passages(path: pathlib.Path) -> Iterator[tuple[str, Passage]]:
  for number, (where, line) in enumerate(read_lines(path)):
    fields = tuple(_unquote(field) for field in line.split("\t"))
    if number == 0 and fields == TSV_HEADER:
      continue
    if len(fields) not in (2, 3):
      raise InputError(
        f"found {len(fields)} tab-separated fields, expected 3",
        where=where,
        mend="write id, text and title separated by single tabs",
      )
    yield where, Passage(*fields)


def _unquote(field: str) -> str:
  """Undoes CSV quoting, but leaves text that merely begins with a quote.

  >>> _unquote('"the ""Great"" Theatre"')
  'the "Great" Theatre'
  >>> _unquote('"Yes" and "no"')
  '"Yes" and "no"'
  """
  if len(field) < 2 or not (field[0] == field[-1] == '"'):
    return field
  inner = field[1:-1].replace('""', "\0")
  return field if '"' in inner else inner.replace("\0", '"')


def _parse_json_passages(path: pathlib.Path) -> Iterator[tuple[str, Passage]]:
  for where, row in read_json_lines(path):
    yield where, to_passage(row, where)


def to_passage(row: Mapping[str, Any], where: str) -> Passage:
  """Reads a passage from `{"docid", "text"}`, and its `title` if there is one.

  Raises:
    InputError: no `docid` or no `text`, or one that is no text.
  """
  return Passage(
    passage_id=get_id(row, "docid", where),
    text=get_text(row, "text", where),
    title=_check_text(row.get("title") or "", "title", where),
  )


def write_passages(file: io.TextIOBase, passages: Iterable[Passage]) -> int:
  """Writes DPR TSV with its header to an open file; returns the row count."""
  writer = csv.writer(file, delimiter="\t", lineterminator="\n")
  writer.writerow(TSV_HEADER)
  count = 0
  for passage in passages:
    writer.writerow((passage.passage_id, passage.text, passage.title))
    count += 1
  return count


# ----------------------------------------------------------------- JSON lines


def read_json_lines(
  path: str | pathlib.Path,
) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields (`file:line`, object) for each non-blank line of a JSONL file.

  Raises:
    InputError: file missing, or a line that is not a JSON object.
  """
  for where, line in read_lines(path):
    if not line.strip():
      continue
    try:
      row = json.loads(line)
    except json.JSONDecodeError as error:
      raise InputError(
        f"not valid JSON ({error.msg} at column {error.colno})",
        where=where,
        mend="write one JSON object a line",
      ) from None
    if not isinstance(row, dict):
      raise InputError(
        f"found a JSON {type(row).__name__}, expected an object",
        where=where,
        mend="write one JSON object a line",
      )
    yield where, row


def get_field(row: Mapping[str, Any], name: str, where: str) -> Any:
  """Reads a required field.

  Raises:
    InputError: the field is absent.
  """
  if name not in row:
    raise InputError(
      f"the field {name!r} is missing (found {', '.join(row) or 'none'})",
      where=where,
      mend=f"add {name!r}",
    )
  return row[name]


def get_text(row: Mapping[str, Any], name: str, where: str) -> str:
  """Reads a required field that has to be a string.

  Raises:
    InputError: the field is absent or is no string.
  """
  return _check_text(get_field(row, name, where), name, where)


def _check_text(value: Any, name: str, where: str) -> str:
  if isinstance(value, str):
    return value
  raise InputError(
    f"{name!r} is {json.dumps(value):.40}, not a string",
    where=where,
    mend=f'write "{name}": "..."',
  )


def get_id(row: Mapping[str, Any], name: str, where: str) -> str:
  """Reads a required field that has to be a string or a whole number.

  Raises:
    InputError: the field is absent or is neither.
  """
  value = get_field(row, name, where)
  is_number = isinstance(value, int) and not isinstance(value, bool)
  return str(value) if is_number else _check_text(value, name, where)


def write_json_line(file: io.TextIOBase, row: Mapping[str, Any]) -> None:
  """Writes one JSON object and a newline."""
  file.write(json.dumps(row, ensure_ascii=False) + "\n")


# ------------------------------------------------------------------ questions


def read_questions(
  path: str | pathlib.Path, *, require_answers: bool = False
) -> list[Question]:
  """Reads XOR-TyDi questions (`id, question, lang, answers, split`).

  Language labels are stripped of blanks: a public copy of the training
  questions labels Arabic `" ar"`.

  Raises:
    InputError: file missing or empty, a malformed line, an unknown language,
      a repeated id, or, with `require_answers`, a question without answers.
  """
  questions: dict[str, Question] = {}
  for where, row in read_json_lines(path):
    question = _to_question(row, where)
    if question.question_id in questions:
      raise InputError(
        f"question id {question.question_id!r} stands twice",
        where=where,
        mend="give each question an id of its own",
      )
    if require_answers and not question.answers:
      raise InputError(
        f"question {question.question_id!r} has no answers",
        where=where,
        mend="add 'answers', a list of English strings",
      )
    questions[question.question_id] = question
  if not questions:
    raise InputError("no questions in it", where=path, mend="check the file")
  return list(questions.values())


def _to_question(row: Mapping[str, Any], where: str) -> Question:
  text = get_text(row, "question", where)
  if not text.strip():
    raise InputError(
      "the question is empty", where=where, mend="remove the line or fill it in"
    )
  code = str(get_field(row, "lang", where)).strip()
  return Question(
    question_id=get_id(row, "id", where),
    question=text,
    language=get_language(code, where=where).code,
    answers=to_strings(row.get("answers") or (), "answers", where),
    split=_check_text(row.get("split") or "", "split", where),
  )


def to_strings(value: Any, name: str, where: str) -> tuple[str, ...]:
  """Checks that the field `name` is a list of strings.

  Raises:
    InputError: it is not.
  """
  is_list = isinstance(value, list | tuple)
  if not is_list or not all(isinstance(v, str) for v in value):
    raise InputError(
      f"{name!r} is not a list of strings",
      where=where,
      mend=f'write "{name}": ["...", "..."]',
    )
  return tuple(value)


def write_questions(file: io.TextIOBase, questions: Iterable[Question]) -> None:
  """Writes questions as XOR-TyDi JSONL to an open file."""
  for q in questions:
    write_json_line(
      file,
      {
        "id": q.question_id,
        "question": q.question,
        "answers": list(q.answers),
        "lang": q.language,
        "split": q.split,
      },
    )


def from_passage(passage: Passage) -> dict[str, str]:
  """A passage as `{"docid", "title", "text"}`."""
  return {
    "docid": passage.passage_id,
    "title": passage.title,
    "text": passage.text,
  }


# ---------------------------------------------------------- generated queries


def list_shards(path: str | pathlib.Path) -> list[pathlib.Path]:
  """The JSONL files of a folder in order of name, or the one file itself.

  Raises:
    InputError: nothing there.
  """
  path = pathlib.Path(path)
  if not path.is_dir():
    return [path]
  shards = sorted((*path.glob("*.jsonl"), *path.glob("*.jsonl.gz")))
  if not shards:
    raise InputError(
      "no .jsonl or .jsonl.gz file in the folder",
      where=path,
      mend="check the path",
    )
  return shards


def read_generated_queries(
  path: str | pathlib.Path,
) -> Iterator[tuple[str, GeneratedQueries]]:
  """Streams generated queries of the released xQG4xDR form.

  One JSON object a line:
  `{"docid": ..., "generated_queries": {"ar": [...], ...}}`; `title` and
  `text` may stand there too and are not read. `path` is a file or a folder
  of shards.

  Yields:
    (`file:line`, the passage's queries).

  Raises:
    InputError: file missing or empty, a malformed line, or an unknown
      language.
  """
  count = 0
  for shard in list_shards(path):
    for where, row in read_json_lines(shard):
      count += 1
      yield where, _to_generated_queries(row, where)
  if not count:
    raise InputError(
      "no generated queries in it", where=path, mend="check the path"
    )


def _to_generated_queries(
  row: Mapping[str, Any], where: str
) -> GeneratedQueries:
  by_language = get_field(row, "generated_queries", where)
  if not isinstance(by_language, dict):
    raise InputError(
      "'generated_queries' is not an object of lists by language",
      where=where,
      mend='write "generated_queries": {"ar": ["...", "..."]}',
    )
  queries = {
    get_language(code, where=where).code: to_strings(texts, code, where)
    for code, texts in by_language.items()
  }
  return GeneratedQueries(get_id(row, "docid", where), queries)


def write_generated_queries(
  file: io.TextIOBase, passage: Passage, queries: Mapping[str, Iterable[str]]
) -> None:
  """Writes one line of the released xQG4xDR form to an open file."""
  row = {
    **from_passage(passage),
    "generated_queries": {code: list(q) for code, q in queries.items()},
  }
  write_json_line(file, row)
