"""XOR-Retrieve prediction files: ranked texts of each question."""

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from xqg_jax.data.json_lines import get_field, get_id, get_text, to_strings
from xqg_jax.data.passages import Passage
from xqg_jax.data.questions import Question
from xqg_jax.data.runs import Run, sort_neighbors
from xqg_jax.errors import InputError
from xqg_jax.io.files import atomic_path, read_json
from xqg_jax.io.paths import to_path

# The longest budget of the official measure, in tokens.
MAX_TOKENS = 5000


@dataclasses.dataclass(frozen=True, slots=True)
class Prediction:
  """One question's ranked texts, as a prediction file holds them."""

  question_id: str
  language: str
  texts: tuple[str, ...]


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
  rows = read_json(path, object)
  if not isinstance(rows, list) or not rows:
    raise InputError(
      "not a list of predictions",
      where=path,
      mend='write [{"id": ..., "lang": ..., "ctxs": [...]}, ...]',
    )
  predictions: dict[str, Prediction] = {}
  for number, row in enumerate(rows, start=1):
    where = f"{to_path(path)}, entry {number}"
    prediction = _to_prediction(row, where)
    if prediction.question_id in predictions:
      raise InputError(
        f"question {prediction.question_id!r} appears twice",
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
  return Prediction(
    question_id=get_id(row, "id", where, kind="question"),
    language=get_text(row, "lang", where).strip(),
    texts=to_strings(texts, "ctxs", where),
  )
