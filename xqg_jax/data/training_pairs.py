"""Training pairs: a query, its positive passages, its hard negatives."""

import dataclasses
import io
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeGuard

from xqg_jax.data.json_lines import (
  check_text,
  get_id,
  get_objects,
  get_text,
  read_json_lines,
  to_strings,
  write_json_line,
)
from xqg_jax.data.languages import get_language
from xqg_jax.data.passages import Passage, from_passage, to_passage
from xqg_jax.errors import InputError

# Answers of a question that are compared; those of XOR-TyDi have one.
MAX_ANSWERS = 4

# Answers that questions with nothing else in common share.
COMMON_ANSWERS = ("", "yes", "no", "unknown")


@dataclasses.dataclass(frozen=True, slots=True)
class TrainingPair:
  """A query with relevant `positives` and misleading `negatives`.

  `positive_scores` and `negative_scores` are a teacher's, one a passage; both
  are empty where there was none.
  """

  query_id: str
  query: str
  language: str
  positives: tuple[Passage, ...]
  negatives: tuple[Passage, ...] = ()
  answers: tuple[str, ...] = ()
  positive_scores: tuple[float, ...] = ()
  negative_scores: tuple[float, ...] = ()


def read_training_pairs(path: str | os.PathLike) -> Iterator[TrainingPair]:
  """Streams pairs of Tevatron/DPR form.

  One JSON object a line: `query_id`, `query`, `positive_passages` and
  `negative_passages` (lists of `{"docid", "title", "text"}`), optionally
  `lang` and `answers`, and in each passage of a row, or in none of it,
  `teacher_score`.

  Raises:
    InputError: file missing or empty, a malformed line, or a row without a
      positive passage.
  """
  count = 0
  for where, row in read_json_lines(path):
    positives = get_objects(row, "positive_passages", where)
    negatives = get_objects(row, "negative_passages", where)
    if not positives:
      raise InputError(
        "the row has no positive passage",
        where=where,
        mend="add one to 'positive_passages' or remove the row",
      )
    scores = _read_scores([*positives, *negatives], where)
    count += 1
    yield TrainingPair(
      query_id=get_id(row, "query_id", where, kind="query"),
      query=get_text(row, "query", where),
      language=_read_language(row, where),
      positives=tuple(to_passage(p, where) for p in positives),
      negatives=tuple(to_passage(p, where) for p in negatives),
      answers=to_strings(row.get("answers") or (), "answers", where),
      positive_scores=scores[: len(positives)],
      negative_scores=scores[len(positives) :],
    )
  if not count:
    raise InputError("no pairs in it", where=path, mend="check the file")


def _read_language(row: Mapping[str, Any], where: str) -> str:
  code = check_text(row.get("lang") or "", "lang", where).strip()
  return get_language(code, where=where).code if code else ""


def _read_scores(
  passages: list[Mapping[str, Any]], where: str
) -> tuple[float, ...]:
  scores = [p.get("teacher_score") for p in passages]
  if all(score is None for score in scores):
    return ()
  for score in scores:
    if not _is_number(score):
      raise InputError(
        f"a passage's teacher_score is {score!r}",
        where=where,
        mend="give every passage of a row a finite number, or none of them",
      )
  return tuple(float(score) for score in scores if _is_number(score))


def _is_number(score: Any) -> TypeGuard[int | float]:
  is_number = isinstance(score, int | float) and not isinstance(score, bool)
  return is_number and math.isfinite(score)


def write_training_pairs(
  file: io.TextIOBase, pairs: Iterable[TrainingPair]
) -> None:
  """Writes pairs of Tevatron/DPR form as JSONL to an open file."""
  for pair in pairs:
    write_json_line(
      file,
      {
        "query_id": pair.query_id,
        "query": pair.query,
        "lang": pair.language,
        "answers": list(pair.answers),
        "positive_passages": _write(pair.positives, pair.positive_scores),
        "negative_passages": _write(pair.negatives, pair.negative_scores),
      },
    )


def _write(
  passages: tuple[Passage, ...], scores: tuple[float, ...]
) -> list[dict[str, Any]]:
  rows: list[dict[str, Any]] = [from_passage(p) for p in passages]
  for row, score in zip(rows, scores, strict=False):
    row["teacher_score"] = score
  return rows
