"""Runs: ranked passages of each question, as TREC run files.

TREC run files hold ids and scores; XOR-Retrieve's prediction files hold the
texts themselves, which is all that the official scorer looks at.
"""

import math
import os
from collections.abc import Mapping, Sequence
from typing import TextIO

import numpy as np
from jaxtyping import Float, Int

from xqg_jax.data.ids import check_id, split_columns
from xqg_jax.errors import InputError
from xqg_jax.io.files import atomic_path, read_lines

# {question id: {passage id: score}}, passages in the order of their ranks.
Run = dict[str, dict[str, float]]

TAG = "xqg_jax"


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
      finite, or a passage that appears twice for a question; the message names
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
        f"passage {passage_id!r} appears twice for question {question_id!r}",
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
  fields = split_columns(line)
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
      check_id(question_id, "question", path)
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
    check_id(passage_id, "passage", where)
    if not math.isfinite(score):
      raise InputError(
        f"the score of passage {passage_id!r} for question {question_id!r} "
        f"is {score}",
        where=where,
        mend="search again",
      )
    out.write(f"{question_id} Q0 {passage_id} {rank} {float(score)!r} {tag}\n")


def make_run(
  question_ids: Sequence[str],
  passage_ids: Sequence[str],
  scores: Float[np.ndarray, "questions k"],
  rows: Int[np.ndarray, "questions k"],
) -> Run:
  """Names the rows that a search found.

  Scores become the shortest decimals that round to the same float32. Rows
  below 0 are places that approximate search could not fill.

  >>> scores = np.array([[0.3, 0.1, -np.inf]], np.float32)
  >>> make_run(["q"], ["a", "b"], scores, np.array([[1, 0, -1]]))
  {'q': {'b': 0.3, 'a': 0.1}}
  """
  return {
    question_id: {
      passage_ids[int(row)]: float(str(score))
      for score, row in zip(question_scores, question_rows, strict=True)
      if row >= 0
    }
    for question_id, question_scores, question_rows in zip(
      question_ids, scores, rows, strict=True
    )
  }
