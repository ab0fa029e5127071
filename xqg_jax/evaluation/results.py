"""Results of an evaluation on disk: metrics, tables, runs, examples.

`metrics.json` holds (values and differences in percent):

  baseline, languages, num_questions, notes, settings
  measures: [{name, label}]
  relevance: "qrels" or "answers", what RR@10 and its like go by
  variants: {variant: {
    augmentation: null or {reduction, alpha, languages, num_queries},
    missing_questions: how many questions the run has no results for,
    measures: {measure: {
      macro: {value, n, difference, interval: [low, high], p},
      languages: {code: {value, n, difference, p, p_holm}}}}}}

The baseline has no difference, interval and p. Pooled evaluations add `seeds`
(one value an evaluation) and `sd` beside each value, and `pooled`.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

from xqg_jax.errors import InputError
from xqg_jax.evaluation.comparison import Scores, read_scores, write_scores
from xqg_jax.evaluation.tables import format_table, measure_label
from xqg_jax.io.claims import MANIFEST_FILE
from xqg_jax.io.files import read_json, write_json, write_text
from xqg_jax.io.paths import Path, to_path

FORMAT_VERSION = 1
METRICS_FILE = "metrics.json"
SCORES_FILE = "per_question.jsonl"
TABLE_FILE = "table.txt"
EXAMPLES_FILE = "examples.json"


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """A finished evaluation: its folder and what stands in `metrics.json`."""

  folder: Path
  metrics: Mapping[str, Any]

  @property
  def table(self) -> str:
    """The results as text."""
    return format_table(self.metrics)

  @functools.cached_property
  def scores(self) -> Scores:
    """One value per question, measure and variant."""
    names = [measure["name"] for measure in self.metrics["measures"]]
    return read_scores(self.folder / SCORES_FILE, names)

  def result(
    self, variant: str, measure: str, language: str | None = None
  ) -> Mapping[str, Any]:
    """One cell of the table: value, n, and how it compares.

    Args:
      variant: name of the variant.
      measure: name of the measure, such as "R@2kt".
      language: a language code; None for the macro average.
    """
    entry = self.metrics["variants"][variant]["measures"][measure]
    return entry["macro"] if language is None else entry["languages"][language]


def load_evaluation(folder: str | os.PathLike) -> Evaluation:
  """Opens a folder that `evaluate` or `pool` wrote.

  Raises:
    InputError: it holds no finished evaluation.
  """
  folder = to_path(folder)
  if not (folder / MANIFEST_FILE).is_file():
    raise InputError(
      "no finished evaluation", where=folder, mend="run `xqg evaluate` first"
    )
  return Evaluation(folder, read_json(folder / METRICS_FILE))


def write_evaluation(
  folder: Path, scores: Scores, metrics: Mapping[str, Any]
) -> None:
  """Writes `per_question.jsonl`, `metrics.json` and `table.txt`."""
  write_scores(folder / SCORES_FILE, scores)
  write_json(folder / METRICS_FILE, metrics)
  write_text(folder / TABLE_FILE, format_table(metrics))


def describe_metrics(
  scores: Scores,
  settings: Mapping[str, Any],
  notes: Sequence[str],
  variants: Mapping[str, Any],
) -> dict[str, Any]:
  """What `metrics.json` holds; see the head of this file."""
  return {
    "format_version": FORMAT_VERSION,
    "baseline": settings["baseline"],
    "languages": sorted(set(scores.languages)),
    "num_questions": len(scores.question_ids),
    "settings": dict(settings),
    "notes": list(notes),
    "measures": [
      {"name": name, "label": measure_label(name)} for name in scores.measures
    ],
    "variants": dict(variants),
  }
