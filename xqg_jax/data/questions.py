"""Questions in XOR-TyDi's JSONL form, read and written."""

import dataclasses
import io
import os
from collections.abc import Iterable, Mapping
from typing import Any

from xqg_jax.data.json_lines import (
  check_text,
  get_id,
  get_text,
  read_json_lines,
  to_strings,
  write_json_line,
)
from xqg_jax.data.languages import get_language
from xqg_jax.errors import InputError


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
  """A user's question of XOR-TyDi form; `answers` are English strings."""

  question_id: str
  question: str
  language: str
  answers: tuple[str, ...] = ()
  split: str = ""


def read_questions(
  path: str | os.PathLike, *, require_answers: bool = False
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
        f"question id {question.question_id!r} appears twice",
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
  code = get_text(row, "lang", where).strip()
  return Question(
    question_id=get_id(row, "id", where, kind="question"),
    question=text,
    language=get_language(code, where=where).code,
    answers=to_strings(row.get("answers") or (), "answers", where),
    split=check_text(row.get("split") or "", "split", where),
  )


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
