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
from xqg_jax.evaluation.result_files import (
  EvaluationManifest,
  Examples,
  Inputs,
  Measured,
  Metrics,
  PooledInputs,
)
from xqg_jax.evaluation.tables import format_table, measure_label
from xqg_jax.io.claims import MANIFEST_FILE
from xqg_jax.io.files import read_json, write_json, write_text
from xqg_jax.io.paths import Path, to_path
from xqg_jax.io.typed_json import check_json

FORMAT_VERSION = 1
METRICS_FILE = "metrics.json"
SCORES_FILE = "per_question.jsonl"
TABLE_FILE = "table.txt"
EXAMPLES_FILE = "examples.json"


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """A finished evaluation: its folder and what stands in `metrics.json`."""

  folder: Path
  metrics: Metrics

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
  metrics = read_json(folder / METRICS_FILE, Metrics)
  _check_complete(metrics, folder / METRICS_FILE)
  return Evaluation(folder, metrics)


def _check_complete(metrics: Metrics, where: object) -> None:
  """Refuses metrics in which a variant lacks a cell that others have."""
  variants, baseline = metrics["variants"], metrics["baseline"]
  names = {measure["name"] for measure in metrics["measures"]}
  if baseline not in variants:
    raise _incomplete(where, f"the baseline {baseline!r} is no variant")
  for variant, entry in variants.items():
    if not names <= set(entry["measures"]):
      missing = min(names - set(entry["measures"]))
      raise _incomplete(where, f"{variant!r} lacks the measure {missing!r}")
    for name in names:
      found = entry["measures"][name]
      wanted = variants[baseline]["measures"].get(name, found)["languages"]
      if set(found["languages"]) != set(wanted):
        what = f"{variant!r} has other languages than the baseline in {name!r}"
        raise _incomplete(where, what)
      _check_tests(found, f"{variant!r}, {name!r}", where)


def _check_tests(found: Measured, cell: str, where: object) -> None:
  """Refuses a difference without its test, and a test without interval."""
  languages = found["languages"].values()
  needed = [
    (found["macro"], "difference", "p"),
    (found["macro"], "p", "interval"),
  ]
  needed += [(language, "difference", "p_holm") for language in languages]
  for entry, name, other in needed:
    if name in entry and other not in entry:
      raise _incomplete(where, f"{cell} has {name!r} but no {other!r}")


def _incomplete(where: object, what: str) -> InputError:
  return InputError(what, where=where, mend="evaluate again")


def read_manifest(evaluation: Evaluation) -> EvaluationManifest:
  """The manifest of a finished evaluation."""
  return read_json(evaluation.folder / MANIFEST_FILE, EvaluationManifest)


def read_inputs(evaluation: Evaluation) -> list[Inputs]:
  """What an evaluation was made from; of a pooled one, of each that was pooled.

  Raises:
    InputError: the manifest does not say so.
  """
  inputs = read_manifest(evaluation)["inputs"]
  where = f"{evaluation.folder / MANIFEST_FILE}: inputs"
  if "evaluations" not in inputs:
    return [check_json(inputs, Inputs, where=where)]
  pooled = check_json(inputs, PooledInputs, where=where)
  return [one["inputs"] for one in pooled["evaluations"]]


def read_examples(evaluation: Evaluation) -> Examples:
  """The examples of an evaluation; empty where it has none."""
  path = evaluation.folder / EXAMPLES_FILE
  return read_json(path, Examples) if path.is_file() else {}


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
