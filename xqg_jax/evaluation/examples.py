"""Examples: questions that a variant wins or loses against the baseline."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from xqg_jax.data.answers import contains_answer, scored_answers
from xqg_jax.data.passages import Passage
from xqg_jax.data.questions import Question
from xqg_jax.data.runs import Run, sort_neighbors
from xqg_jax.evaluation.comparison import Scores

NUM_EXAMPLES = 12
NUM_PASSAGES = 3


def choose_examples(
  metrics: Mapping[str, Any],
  scores: Scores,
  runs: Mapping[str, Run],
  questions: Sequence[Question],
  passages: Mapping[str, Passage],
) -> dict[str, Any]:
  """Picks questions for reading, spread over the languages.

  Shows the first run beside the baseline: it was chosen before its scores were
  seen, where the best of many would flatter. The measure is the one that tells
  rankings apart most finely, reciprocal rank where there is one.

  Returns:
    `{"variant", "baseline", "measure", "won": [...], "lost": [...]}`; each
    example has the question, its answers, both values, and each side's best
    passages. Empty when there is nothing to compare.
  """
  baseline = metrics["baseline"]
  variants = [name for name in runs if name != baseline]
  if not variants:
    return {}
  measure = choose_measure(scores.measures)
  variant = variants[0]
  before = scores.column(baseline, measure)
  after = scores.column(variant, measure)
  differences = np.nan_to_num(after - before)

  def show(row: int) -> dict[str, Any]:
    question = questions[row]
    return {
      "id": question.question_id,
      "language": question.language,
      "question": question.question,
      "answers": list(dict.fromkeys(question.answers)),
      "values": [float(before[row]), float(after[row])],
      "passages": [
        _show_passages(question, runs[name], passages)
        for name in (baseline, variant)
      ],
    }

  return {
    "variant": variant,
    "baseline": baseline,
    "measure": measure,
    "won": [show(row) for row in _pick(differences, scores.languages)],
    "lost": [show(row) for row in _pick(-differences, scores.languages)],
  }


def choose_measure(measures: Sequence[str]) -> str:
  """The measure that examples go by: reciprocal rank, else the first."""
  return next((m for m in measures if m.startswith("RR")), measures[0])


def _pick(differences: np.ndarray, languages: Sequence[str]) -> list[int]:
  """Rows of the largest positive differences, the languages taking turns."""
  order = np.argsort(-differences, kind="stable")
  turns: dict[str, int] = {}
  ranked = []
  for row in order[differences[order] > 0].tolist():
    language = languages[int(row)]
    turns[language] = turns.get(language, 0) + 1
    ranked.append((turns[language], row))
  # Sorting by turn alone keeps the order by difference within a turn.
  return [row for _, row in sorted(ranked, key=lambda r: r[0])][:NUM_EXAMPLES]


def _show_passages(
  question: Question, run: Run, passages: Mapping[str, Passage]
) -> list[dict[str, Any]]:
  ranked = list(sort_neighbors(run.get(question.question_id, {})))
  return [
    {
      "id": passage_id,
      "title": passages[passage_id].title,
      "text": passages[passage_id].text,
      "has_answer": contains_answer(
        passages[passage_id].text, scored_answers(question)
      ),
    }
    for passage_id in ranked[:NUM_PASSAGES]
  ]
