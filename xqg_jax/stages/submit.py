"""Stage `submit`: a run as the file for XOR-Retrieve's leaderboard."""

import os
import sys
from collections.abc import Mapping, Sequence

from xqg_jax.data.passages import Passage
from xqg_jax.data.predictions import MAX_TOKENS, write_predictions
from xqg_jax.data.questions import Question, read_questions
from xqg_jax.data.runs import Run
from xqg_jax.errors import InputError
from xqg_jax.evaluation.search_folder import find_run_file
from xqg_jax.evaluation.variants import (
  keep_questions,
  read_needed_passages,
  read_variant,
)
from xqg_jax.io.claims import MANIFEST_FILE, claim_output_dir
from xqg_jax.io.files import sha256_file, write_json
from xqg_jax.io.paths import Path

FORMAT_VERSION = 1
PREDICTIONS_FILE = "predictions.json"


def submit(
  *,
  run: str | os.PathLike,
  questions: str | os.PathLike,
  passages: str | os.PathLike,
  output_dir: str | os.PathLike,
) -> Path:
  """Writes `predictions.json`: `[{"id", "lang", "ctxs": [text, ...]}, ...]`.

  Each question has the texts of its best passages, as many as 5,000 tokens
  need, because the leaderboard's scorer reads no further. Warns where there
  are fewer, and where a question has none.

  Args:
    run: search folder, TREC run or prediction file.
    questions: XOR-TyDi JSONL; answers are not needed.
    passages: the passages that were searched.
    output_dir: folder to write.

  Returns:
    The file.

  Raises:
    InputError: bad input; the message names file and line.
  """
  asked = read_questions(questions)
  variant = keep_questions(read_variant("run", run), asked, questions)
  if variant.num_left_out:
    raise InputError(
      f"results for {variant.num_left_out} questions that are not in "
      f"{questions}",
      where=run,
      mend="give all questions that were searched with",
    )
  texts, (variant,) = read_needed_passages(passages, [variant])
  folder = claim_output_dir(
    output_dir,
    stage="submit",
    arguments={
      "run": sha256_file(find_run_file(run)),
      "questions": sha256_file(questions),
      "passages": str(passages),
    },
  )
  path = folder / PREDICTIONS_FILE
  write_predictions(path, variant.run, questions=asked, passages=texts)
  sha256 = sha256_file(path)
  write_json(
    folder / MANIFEST_FILE,
    {
      "format_version": FORMAT_VERSION,
      "stage": "submit",
      "files": {PREDICTIONS_FILE: sha256},
    },
  )
  _warn_of_gaps(variant.run, asked, texts)
  print(f"submission: {path}")
  return path


def _warn_of_gaps(
  run: Run, questions: Sequence[Question], passages: Mapping[str, Passage]
) -> None:
  """Tells how many questions lack text and would be underestimated."""
  num_words = [
    sum(len(passages[p].text.split()) for p in run.get(q.question_id, {}))
    for q in questions
  ]
  for count, what in (
    (num_words.count(0), "have no passages and count as missed"),
    (
      sum(0 < n < MAX_TOKENS for n in num_words),
      f"may have fewer than {MAX_TOKENS:,} tokens: search with a larger K",
    ),
  ):
    if count:
      print(f"{count} of {len(questions)} questions {what}", file=sys.stderr)
