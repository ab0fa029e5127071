"""Comparison of variants over the same questions: averages, tests, tables."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from xqg_jax.data.json_lines import read_json_lines, write_json_line
from xqg_jax.errors import InputError
from xqg_jax.evaluation.result_files import ScoreRow
from xqg_jax.evaluation.significance import (
  holm_correction,
  paired_bootstrap_interval,
  paired_randomization_test,
)
from xqg_jax.io.files import atomic_path
from xqg_jax.io.paths import to_path
from xqg_jax.io.typed_json import check_json


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
  """Reads what `write_scores` wrote.

  Raises:
    InputError: a line of another form, or with other variants or measures.
  """
  rows: list[ScoreRow] = []
  for where, row in read_json_lines(to_path(path)):
    rows.append(check_json(row, ScoreRow, where=where))
    _check_row(rows[0], rows[-1], measures, where)
  if not rows:
    raise InputError("has no lines", where=path, mend="evaluate again")
  return Scores(
    question_ids=tuple(row["id"] for row in rows),
    languages=tuple(row["lang"] for row in rows),
    measures=tuple(measures),
    values={
      name: np.array([row["values"][name] for row in rows], np.float64)
      for name in rows[0]["values"]
    },
  )


def _check_row(
  first: ScoreRow, row: ScoreRow, measures: Sequence[str], where: str
) -> None:
  lengths = {len(values) for values in row["values"].values()}
  if set(row["values"]) != set(first["values"]) or lengths != {len(measures)}:
    raise InputError(
      f"not one value of {', '.join(measures)} for each of "
      f"{', '.join(first['values'])}",
      where=where,
      mend="evaluate again",
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
    macro |= compare_macro(strata, rounds, seed)
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


def compare_macro(
  strata: Mapping[str, np.ndarray], rounds: int, seed: int
) -> dict[str, Any]:
  """Tests a difference of macro averages.

  Args:
    strata: by language, each question's value minus the other value.
    rounds: of the randomization test and the bootstrap.
    seed: of both.

  Returns:
    `difference` and `interval` (95 %) in percent, and `p`.
  """
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
