"""The collections of the study on centred questions, in one form.

LibreOffice's and GNOME's help pages and XQuAD, each with English passages,
questions in other languages, and texts that stand in for generated queries.
"""

import collections
import dataclasses
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from xqg_jax.data.generated_queries import read_generated_queries
from xqg_jax.data.passages import Passage, read_passages
from xqg_jax.data.qrels import read_qrels
from xqg_jax.data.questions import Question, read_questions

# The language of a paragraph's translations; Romanian came later.
POOL = ("ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh")
XQUAD_OTHERS = ("de", "el", "es", "hi", "th", "tr", "vi", "zh")


@dataclasses.dataclass(frozen=True)
class Query:
  """A text that stands in for a generated query.

  Attributes:
    text: of the query.
    language: its code.
    row: of the passage it belongs to; None: of no passage.
  """

  text: str
  language: str
  row: int | None = None


@dataclasses.dataclass(frozen=True)
class Collection:
  """Passages, judged questions, and queries to take means of.

  Attributes:
    name: in tables.
    passages: in order of rows.
    questions: to be answered.
    qrels: {question_id: rows of the relevant passages}.
    queries: stand-ins for generated queries.
  """

  name: str
  passages: Sequence[Passage]
  questions: Sequence[Question]
  qrels: Mapping[str, frozenset[int]]
  queries: Sequence[Query]

  @property
  def can_augment(self) -> bool:
    """Whether the queries belong to passages."""
    return all(query.row is not None for query in self.queries)


def read_libreoffice(folder: pathlib.Path) -> Collection:
  """Dev terms as questions; the terms of training pages to take means of."""
  terms = read_questions(folder / "questions_train.jsonl")
  queries = [Query(q.question, q.language) for q in terms]
  return _read_help("LibreOffice", folder, queries)


def read_gnome(folder: pathlib.Path) -> Collection:
  """Dev descriptions as questions; translated titles as queries."""
  rows = _number(read_passages(folder / "passages.tsv"))
  queries = list(_read_queries(folder / "titles.jsonl", rows))
  return _read_help("GNOME", folder, queries)


def _read_help(
  name: str, folder: pathlib.Path, queries: Sequence[Query]
) -> Collection:
  passages = list(read_passages(folder / "passages.tsv"))
  rows = _number(passages)
  judged = read_qrels(folder / "qrels_dev.tsv")
  return Collection(
    name,
    passages,
    read_questions(folder / "questions_dev.jsonl"),
    {key: frozenset(rows[p] for p in found) for key, found in judged.items()},
    queries,
  )


def read_xquad_xor(folder: pathlib.Path) -> Collection:
  """Arabic and Russian questions on English blocks of 100 words."""
  passages = list(read_passages(folder / "corpus.tsv"))
  rows = _number(passages)
  judged = read_qrels(folder / "qrels.jsonl", field="chunks_by_span")
  return Collection(
    "XQuAD ar ru",
    passages,
    read_questions(folder / "dev.jsonl"),
    {key: frozenset(rows[p] for p in found) for key, found in judged.items()},
    list(_read_queries(folder / "generated_queries.jsonl", rows)),
  )


def _number(passages: Iterable[Passage]) -> dict[str, int]:
  return {passage.passage_id: row for row, passage in enumerate(passages)}


def _read_queries(
  path: pathlib.Path, rows: Mapping[str, int]
) -> Iterator[Query]:
  for _, found in read_generated_queries(path):
    for language, texts in found.queries.items():
      for text in texts:
        yield Query(text, language, rows[found.passage_id])


# ----------------------------------------------------------------- translations


def read_xquad(
  folder: pathlib.Path, language: str
) -> Iterator[tuple[str, str, list[tuple[str, str]]]]:
  """Yields (title, paragraph, [(question id, question)]) of a public file."""
  path = folder / f"xquad.{language}.json"
  for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
    title = article.get("title", "").replace("_", " ")
    for paragraph in article["paragraphs"]:
      asked = [(q["id"], q["question"].strip()) for q in paragraph["qas"]]
      yield title, paragraph["context"], asked


def translate(
  collection: Collection,
  folder: pathlib.Path,
  languages: Sequence[str],
  name: str,
) -> Collection:
  """The same passages, questions and queries in other languages.

  Args:
    collection: what `read_xquad_xor` read.
    folder: XQuAD's public files.
    languages: of the new questions and queries.
    name: of the new collection.
  """
  texts = {code: _read_texts(folder, code) for code in languages}
  ids = _match_queries(collection, _read_texts(folder, "ar"))
  asked = [q for q in collection.questions if q.language == "ar"]
  questions, qrels = [], {}
  for code in languages:
    for question in asked:
      source = question.question_id.removesuffix("-ar")
      question_id = f"{source}-{code}"
      questions.append(
        Question(question_id, texts[code][source], code, question.answers)
      )
      qrels[question_id] = collection.qrels[question.question_id]
  queries = [
    Query(texts[code][source], code, row)
    for code in languages
    for source, row in ids
  ]
  return Collection(name, collection.passages, questions, qrels, queries)


def _read_texts(folder: pathlib.Path, language: str) -> dict[str, str]:
  return {
    question_id: text
    for _, _, asked in read_xquad(folder, language)
    for question_id, text in asked
  }


def _match_queries(
  collection: Collection, arabic: Mapping[str, str]
) -> list[tuple[str, int]]:
  """(question id, row) of the Arabic queries, found by their texts."""
  by_text = collections.defaultdict(list)
  held_out = {q.question_id.removesuffix("-ar") for q in collection.questions}
  for question_id, text in arabic.items():
    if question_id not in held_out:
      by_text[text].append(question_id)
  queries = [q for q in collection.queries if q.language == "ar"]
  return [
    (question_id, query.row)
    for query in queries
    for question_id in by_text[query.text.strip()]
  ]


# -------------------------------------------------------------- mixed languages


@dataclasses.dataclass(frozen=True)
class Pool:
  """Paragraphs in many languages as one collection.

  Attributes:
    passages: (title, text), language after language.
    passage_languages: code of each.
    questions: of all languages.
    paragraphs: of each question, the number of its paragraph.
    num_paragraphs: of one language.
  """

  passages: Sequence[tuple[str, str]]
  passage_languages: Sequence[str]
  questions: Sequence[Question]
  paragraphs: Sequence[int]
  num_paragraphs: int


def read_pool(folder: pathlib.Path, languages: Sequence[str] = POOL) -> Pool:
  """XQuAD's paragraphs in all languages; relevant are all translations."""
  found: dict[str, list[Any]] = collections.defaultdict(list)
  for code in languages:
    for number, (title, text, asked) in enumerate(read_xquad(folder, code)):
      found["passages"].append((title, text))
      found["languages"].append(code)
      for question_id, question in asked:
        found["questions"].append(
          Question(f"{question_id}-{code}", question, code)
        )
        found["paragraphs"].append(number)
  return Pool(
    found["passages"],
    found["languages"],
    found["questions"],
    found["paragraphs"],
    len(found["passages"]) // len(languages),
  )
