"""Runs: ranked passages for each question, and the two files they travel in.

TREC run files hold ids and scores; XOR-Retrieve's prediction files hold the
texts themselves, which is all that the official scorer looks at.
"""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

from xqg_jax.errors import InputError
from xqg_jax.files import atomic_path, read_json, read_lines
from xqg_jax.records import Passage, Question, get_field

# {question id: {passage id: score}}, passages in the order of their ranks.
Run = dict[str, dict[str, float]]

TAG = "xqg_jax"
# The longest budget of the official measure, in tokens.
MAX_TOKENS = 5000


@dataclasses.dataclass(frozen=True, slots=True)
class Prediction:
  """One question's ranked texts, as a prediction file holds them."""

  question_id: str
  language: str
  texts: tuple[str, ...]


# ------------------------------------------------------------------ TREC runs


def sort_neighbors(scores: Mapping[str, float]) -> dict[str, float]:
  """Orders passages by falling score; equal scores keep their order.

  >>> list(sort_neighbors({"a": 1.0, "b": 2.0, "c": 1.0}))
  ['b', 'a', 'c']
  """
  return dict(sorted(scores.items(), key=lambda item: -item[1]))


def read_run(path: str | os.PathLike) -> Run:
  """Reads a TREC run file: `question_id Q0 passage_id rank score tag`.

  Passages are ordered by falling score and, where scores are equal, by rank.

  Raises:
    InputError: file missing or empty, a malformed line, a score that is not
      finite, or a passage that stands twice for a question; the message names
      file and line.
  """
  ranked: dict[str, dict[str, tuple[float, int]]] = {}
  for where, line in read_lines(path):
    if not line.strip():
      continue
    question_id, passage_id, rank, score = _parse_run_line(line, where)
    neighbors = ranked.setdefault(question_id, {})
    if passage_id in neighbors:
      raise InputError(
        f"passage {passage_id!r} stands twice for question {question_id!r}",
        where=where,
        mend="remove one of the lines",
      )
    neighbors[passage_id] = (-score, rank)
  if not ranked:
    raise InputError("no results in it", where=path, mend="check the file")
  return {
    question_id: {
      passage_id: -negative
      for passage_id, (negative, _) in sorted(
        neighbors.items(), key=lambda item: item[1]
      )
    }
    for question_id, neighbors in ranked.items()
  }


def _parse_run_line(line: str, where: str) -> tuple[str, str, int, float]:
  fields = line.split()
  if len(fields) != 6:
    raise InputError(
      f"found {len(fields)} fields, expected 6",
      where=where,
      mend="write `question_id Q0 passage_id rank score tag`",
    )
  question_id, _, passage_id, rank, score, _ = fields
  try:
    numbers = int(rank), float(score)
  except ValueError:
    raise InputError(
      f"rank {rank!r} and score {score!r} are not both numbers",
      where=where,
      mend="write `question_id Q0 passage_id rank score tag`",
    ) from None
  if not math.isfinite(numbers[1]):
    raise InputError(
      f"the score {score!r} is not finite", where=where, mend="search again"
    )
  return question_id, passage_id, *numbers


def write_run(path: str | os.PathLike, run: Run, *, tag: str = TAG) -> None:
  """Writes a TREC run file atomically.

  Ranks count from 1 in the order of falling scores, equal scores in the order
  of the dictionary. Scores are written so that they are read back unchanged.

  Raises:
    InputError: a score that is not finite, or an id with blanks in it.
  """
  with atomic_path(path) as partial, partial.open("w", encoding="utf-8") as out:
    for question_id, scores in run.items():
      _check_id(question_id, path)
      _write_neighbors(out, question_id, scores, tag=tag, where=path)


def _write_neighbors(
  out: TextIO,
  question_id: str,
  scores: Mapping[str, float],
  *,
  tag: str,
  where: object,
) -> None:
  for rank, (passage_id, score) in enumerate(
    sort_neighbors(scores).items(), start=1
  ):
    _check_id(passage_id, where)
    if not math.isfinite(score):
      raise InputError(
        f"the score of passage {passage_id!r} for question {question_id!r} "
        f"is {score}",
        where=where,
        mend="search again",
      )
    out.write(f"{question_id} Q0 {passage_id} {rank} {float(score)!r} {tag}\n")


def _check_id(name: str, where: object) -> None:
  if name.split() != [name]:
    raise InputError(
      f"the id {name!r} cannot stand in a TREC run file",
      where=where,
      mend="use ids without blanks",
    )


# ---------------------------------------------------------------- predictions


def write_predictions(
  path: str | os.PathLike,
  run: Run,
  *,
  questions: Iterable[Question],
  passages: Mapping[str, Passage],
) -> None:
  """Writes the JSON that XOR-Retrieve's scorer and leaderboard take.

  A list of `{"id", "lang", "ctxs"}`, with the texts of the best passages in
  `ctxs`, as many as 5,000 tokens need: the scorer reads no further. Every
  question is in it: the scorer leaves absent ones out of the average instead
  of counting them as missed.

  Args:
    path: file to write.
    run: the ranked passages.
    questions: the questions asked.
    passages: the passages by id.

  Raises:
    InputError: the run names a passage that is not among `passages`.
  """
  rows = [
    {
      "id": question.question_id,
      "lang": question.language,
      "ctxs": _select_texts(run.get(question.question_id, {}), passages),
    }
    for question in questions
  ]
  with atomic_path(path) as partial, partial.open("w", encoding="utf-8") as out:
    json.dump(rows, out, ensure_ascii=False)
    out.write("\n")


def _select_texts(
  scores: Mapping[str, float], passages: Mapping[str, Passage]
) -> list[str]:
  """The best texts until they surely hold the longest budget of tokens.

  The scorer's tokeniser splits at least at every blank, so a text has no
  fewer tokens than words.
  """
  texts: list[str] = []
  num_words = 0
  for passage_id in sort_neighbors(scores):
    if num_words >= MAX_TOKENS:
      break
    if passage_id not in passages:
      raise InputError(
        f"the run names passage {passage_id!r}, which is not in the collection",
        mend="give the passages that were searched",
      )
    texts.append(passages[passage_id].text)
    num_words += len(texts[-1].split())
  return texts


def read_predictions(path: str | os.PathLike) -> list[Prediction]:
  """Reads an XOR-Retrieve prediction file, of this or of another system.

  `ctxs` holds texts or, as DPR's retriever writes them, objects with a `text`.

  Raises:
    InputError: the file is missing, is not a list of `{"id", "lang",
      "ctxs"}`, or has a question twice; the message names the entry.
  """
  rows = read_json(path)
  if not isinstance(rows, list) or not rows:
    raise InputError(
      "not a list of predictions",
      where=path,
      mend='write [{"id": ..., "lang": ..., "ctxs": [...]}, ...]',
    )
  predictions: dict[str, Prediction] = {}
  for number, row in enumerate(rows, start=1):
    where = f"{pathlib.Path(path)}, entry {number}"
    prediction = _to_prediction(row, where)
    if prediction.question_id in predictions:
      raise InputError(
        f"question {prediction.question_id!r} stands twice",
        where=where,
        mend="remove one of the entries",
      )
    predictions[prediction.question_id] = prediction
  return list(predictions.values())


def _to_prediction(row: Any, where: str) -> Prediction:
  if not isinstance(row, dict):
    raise InputError(
      f"found a JSON {type(row).__name__}, expected an object",
      where=where,
      mend='write {"id": ..., "lang": ..., "ctxs": [...]}',
    )
  texts: Sequence[Any] = get_field(row, "ctxs", where)
  if isinstance(texts, list):
    texts = [t.get("text") if isinstance(t, dict) else t for t in texts]
  if not isinstance(texts, list) or not all(isinstance(t, str) for t in texts):
    raise InputError(
      "'ctxs' is not a list of texts",
      where=where,
      mend='write "ctxs": ["...", "..."], best passage first',
    )
  return Prediction(
    question_id=str(get_field(row, "id", where)),
    language=str(get_field(row, "lang", where)).strip(),
    texts=tuple(texts),
  )
