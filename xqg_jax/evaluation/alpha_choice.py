"""Choice of alpha by cross-validation over folds of questions."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from xqg_jax.errors import InputError
from xqg_jax.evaluation.comparison import Scores, compare_macro


@dataclasses.dataclass(frozen=True)
class Choice:
  """The best variant, and what choosing one is worth.

  Attributes:
    best: best on all questions.
    curve: macro average of each variant on all questions, in percent.
    by_fold: the variant that each fold is scored with.
    value: macro average over questions scored so, in percent.
    gain: `difference`, `interval` and `p` of that value against the first
      variant's, as `compare_macro` gives them.
  """

  best: str
  curve: Mapping[str, float]
  by_fold: Sequence[str]
  value: float
  gain: Mapping[str, Any]


def choose_alpha(
  scores: Scores,
  measure: str,
  *,
  num_folds: int,
  seed: int,
  rounds: int = 10_000,
) -> Choice:
  """Chooses among the variants of `scores`, with cross-validation.

  Args:
    scores: the variants in order; of equally good ones the first is taken.
    measure: one of its measures.
    num_folds: parts into which each language's questions are cut.
    seed: of the cut, the randomization test and the bootstrap.
    rounds: of these two.

  Raises:
    InputError: fewer than two folds, or a language with fewer questions.
  """
  names = list(scores.values)
  values = np.stack([scores.column(name, measure) for name in names])
  is_scored = ~np.isnan(values[0])
  values, languages = (
    values[:, is_scored],
    np.array(scores.languages)[is_scored],
  )
  folds = make_folds(languages, num_folds=num_folds, seed=seed)
  everywhere = _average(values, languages)
  chosen = [
    int(np.argmax(_average(values[:, folds != f], languages[folds != f])))
    for f in range(num_folds)
  ]
  held_out = values[np.array(chosen)[folds], np.arange(len(folds))]
  gains = {
    language: (held_out - values[0])[languages == language]
    for language in sorted(set(languages.tolist()))
  }
  return Choice(
    best=names[int(np.argmax(everywhere))],
    curve=dict(zip(names, everywhere.tolist(), strict=True)),
    by_fold=[names[variant] for variant in chosen],
    value=float(_average(held_out[None], languages)[0]),
    gain=compare_macro(gains, rounds, seed),
  )


def make_folds(
  languages: np.ndarray, *, num_folds: int, seed: int
) -> Int[np.ndarray, " questions"]:
  """Deals the questions of each language out to folds, at random.

  >>> folds = make_folds(np.array(["ar", "fi"] * 4), num_folds=2, seed=0)
  >>> [int((folds[::2] == f).sum()) for f in (0, 1)]
  [2, 2]
  """
  rng = np.random.default_rng(seed)
  folds = np.zeros(len(languages), np.int64)
  for language in sorted(set(languages.tolist())):
    rows = np.flatnonzero(languages == language)
    if not 2 <= num_folds <= len(rows):
      raise InputError(
        f"{len(rows)} questions in {language!r} do not make {num_folds} folds",
        mend="set NUM_FOLDS between 2 and the fewest questions of a language",
      )
    folds[rng.permutation(rows)] = np.arange(len(rows)) % num_folds
  return folds


def _average(
  values: Float[np.ndarray, "variants questions"], languages: np.ndarray
) -> Float[np.ndarray, " variants"]:
  """Mean over languages of the languages' means, in percent."""
  by_language = [
    values[:, languages == language].mean(axis=1)
    for language in sorted(set(languages.tolist()))
  ]
  return 100 * np.mean(by_language, axis=0)
