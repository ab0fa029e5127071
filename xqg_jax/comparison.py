"""Comparison of variants over the same questions: averages, tests, tables."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from xqg_jax.files import atomic_path
from xqg_jax.records import read_json_lines, write_json_line
from xqg_jax.significance import (
  holm_correction,
  paired_bootstrap_interval,
  paired_randomization_test,
  significance_mark,
)


@dataclasses.dataclass(frozen=True)
class Scores:
  """One value per question, measure and variant.

  Attributes:
    question_ids: the questions in the order of rows.
    languages: their language codes.
    measures: names of the measures in the order of columns.
    values: [questions, measures] in [0, 1] by variant; NaN where a measure
      does not score a question.
  """

  question_ids: tuple[str, ...]
  languages: tuple[str, ...]
  measures: tuple[str, ...]
  values: Mapping[str, Float[np.ndarray, "questions measures"]]

  def rows(self, language: str, measure: str) -> Bool[np.ndarray, " questions"]:
    """Which questions of a language a measure scores."""
    column = self.column(next(iter(self.values)), measure)
    return (np.array(self.languages) == language) & ~np.isnan(column)

  def column(
    self, variant: str, measure: str
  ) -> Float[np.ndarray, " questions"]:
    """One variant's values of one measure."""
    return self.values[variant][:, self.measures.index(measure)]


def write_scores(path: str | os.PathLike, scores: Scores) -> None:
  """Writes one JSON object a question.

  `{"id", "lang", "values": {variant: [one number a measure]}}`, with null
  where a measure does not score the question.
  """
  with atomic_path(path) as partial, partial.open("w", encoding="utf-8") as out:
    for row, (question_id, language) in enumerate(
      zip(scores.question_ids, scores.languages, strict=True)
    ):
      values = {
        name: [None if np.isnan(v) else float(v) for v in array[row]]
        for name, array in scores.values.items()
      }
      write_json_line(
        out, {"id": question_id, "lang": language, "values": values}
      )


def read_scores(path: str | os.PathLike, measures: Sequence[str]) -> Scores:
  """Reads what `write_scores` wrote."""
  rows = [row for _, row in read_json_lines(pathlib.Path(path))]
  return Scores(
    question_ids=tuple(row["id"] for row in rows),
    languages=tuple(row["lang"] for row in rows),
    measures=tuple(measures),
    values={
      name: np.array([row["values"][name] for row in rows], np.float64)
      for name in rows[0]["values"]
    },
  )


# ----------------------------------------------------------------- comparison


def compare_variants(
  scores: Scores, *, baseline: str, rounds: int, seed: int
) -> dict[str, dict[str, Any]]:
  """Averages every variant by language and tests it against the baseline.

  Values and differences are in percent. `macro` is the mean over languages of
  the languages' means.

  Returns:
    {variant: {measure: {"macro": {value, n[, difference, interval, p]},
    "languages": {code: {value, n[, difference, p, p_holm]}}}}}; what is in
    brackets is absent for the baseline.
  """
  return {
    variant: {
      measure: _compare(scores, variant, baseline, measure, rounds, seed)
      for measure in scores.measures
    }
    for variant in scores.values
  }


def _compare(
  scores: Scores,
  variant: str,
  baseline: str,
  measure: str,
  rounds: int,
  seed: int,
) -> dict[str, Any]:
  values = scores.column(variant, measure)
  differences = values - scores.column(baseline, measure)
  rows = {
    language: scores.rows(language, measure)
    for language in sorted(set(scores.languages))
  }
  rows = {language: mask for language, mask in rows.items() if mask.any()}
  languages = {
    language: {"value": _percent(values[mask]), "n": int(mask.sum())}
    for language, mask in rows.items()
  }
  macro = {
    "value": float(np.mean([entry["value"] for entry in languages.values()])),
    "n": sum(entry["n"] for entry in languages.values()),
  }
  if variant != baseline:
    strata = {language: differences[mask] for language, mask in rows.items()}
    _test_languages(languages, strata, rounds, seed)
    macro |= _test_macro(strata, rounds, seed)
  return {"macro": macro, "languages": languages}


def _percent(values: Float[np.ndarray, " questions"]) -> float:
  return 100 * float(np.mean(values))


def _test_languages(
  languages: dict[str, dict[str, Any]],
  strata: Mapping[str, np.ndarray],
  rounds: int,
  seed: int,
) -> None:
  for language, entry in languages.items():
    entry["difference"] = _percent(strata[language])
    entry["p"] = paired_randomization_test(
      strata[language], rounds=rounds, seed=seed
    )
  corrected = holm_correction([entry["p"] for entry in languages.values()])
  for entry, p_holm in zip(languages.values(), corrected, strict=True):
    entry["p_holm"] = float(p_holm)


def _test_macro(
  strata: Mapping[str, np.ndarray], rounds: int, seed: int
) -> dict[str, Any]:
  # Each question's share in the macro average's difference.
  shares = [d / (len(strata) * len(d)) for d in strata.values()]
  low, high = paired_bootstrap_interval(
    list(strata.values()), rounds=rounds, seed=seed
  )
  shares = np.concatenate(shares)
  return {
    "difference": 100 * float(shares.sum()),
    "interval": [100 * low, 100 * high],
    "p": paired_randomization_test(shares, rounds=rounds, seed=seed),
  }


# ---------------------------------------------------------------------- table


def format_table(metrics: Mapping[str, Any]) -> str:
  """The metrics as text: a block for each measure, a line for each variant.

  A variant's cell holds its value, the difference to the baseline, and stars
  where the difference is significant.
  """
  blocks = [
    _format_block(metrics, measure["name"], measure["label"])
    for measure in metrics["measures"]
  ]
  notes = [
    f"differences to {metrics['baseline']!r}; * p < 0.05, ** p < 0.01 by a"
    f" paired randomization test ({metrics['settings']['rounds']:,} rounds)",
    "languages Holm-corrected; [..] 95% bootstrap interval of the macro"
    " difference",
    *metrics["notes"],
  ]
  lines = "\n".join(f"- {note}" for note in notes)
  return "\n".join([*blocks, lines]) + "\n"


def _format_block(metrics: Mapping[str, Any], name: str, label: str) -> str:
  measured = {v: m["measures"][name] for v, m in metrics["variants"].items()}
  languages = list(next(iter(measured.values()))["languages"])
  counts = next(iter(measured.values()))
  header = [
    label,
    *(f"{c} ({counts['languages'][c]['n']})" for c in languages),
    f"macro ({counts['macro']['n']})",
    "difference",
    "p",
  ]
  rows = [header]
  for variant, entry in measured.items():
    cells = [_format_cell(entry["languages"][c], "p_holm") for c in languages]
    macro = entry["macro"]
    rows.append([variant, *cells, _format_cell(macro, "p"), *_tail(macro)])
  return "\n".join(_align(rows)) + "\n"


def _format_cell(entry: Mapping[str, Any], p_key: str) -> str:
  text = f"{entry['value']:.1f}"
  if "sd" in entry:
    text += f"±{entry['sd']:.1f}"
  if "difference" in entry:
    mark = significance_mark(entry[p_key])
    text += f" {format_difference(entry['difference'])}{mark:<2}"
  return text


def _tail(macro: Mapping[str, Any]) -> tuple[str, str]:
  if "p" not in macro:
    return "", ""
  low, high = macro["interval"]
  interval = f"[{format_difference(low)}, {format_difference(high)}]"
  return interval, format_p(macro["p"])


def format_difference(value: float) -> str:
  """A signed number with one decimal; zero has no sign.

  >>> format_difference(1.25), format_difference(-0.04)
  ('+1.2', '0.0')
  """
  text = f"{value:+.1f}"
  return text[1:] if text in ("+0.0", "-0.0") else text


def format_p(p_value: float) -> str:
  """A p-value with four decimals.

  >>> format_p(0.03144), format_p(0.00001)
  ('0.0314', '<0.0001')
  """
  return "<0.0001" if p_value < 0.00005 else f"{p_value:.4f}"


def _align(rows: list[list[str]]) -> list[str]:
  """Pads columns: the first to the left, a value's sign under the others'."""
  widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
  return [
    "  ".join(
      cell.ljust(width) for cell, width in zip(row, widths, strict=True)
    ).rstrip()
    for row in rows
  ]


def measure_label(name: str) -> str:
  """How a measure is shown: TREC's "R" in full, "RR" as MRR.

  >>> [measure_label(n) for n in ("RR@10", "R@20", "R@2kt", "nDCG@10")]
  ['MRR@10', 'Recall@20', 'R@2kt', 'nDCG@10']
  """
  kind, at, cutoff = name.partition("@")
  if kind == "RR":
    return f"MRR{at}{cutoff}"
  if kind == "R" and not cutoff.endswith("t"):
    return f"Recall{at}{cutoff}"
  return name
