"""Stage `tune-alpha`: alpha chosen by cross-validation on dev questions.

The strength of centring is chosen with it, where strengths are given.

The scores of every alpha follow from two score matrices, of passages and of
query sums. A value that was chosen on the very questions it is reported on
looks better than it is, so the questions are cut into folds: each fold is
scored with the value that is best on all others.
"""

import dataclasses
import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from xqg_jax.augmentation.centering import (
  Centering,
)
from xqg_jax.augmentation.settings import Augmentation, Reduction
from xqg_jax.data.passages import list_passage_files
from xqg_jax.errors import InputError
from xqg_jax.evaluation.alpha_choice import Choice, choose_alpha
from xqg_jax.evaluation.center_grid import (
  NO_GRID,
  CenterGrid,
  score_centered,
)
from xqg_jax.evaluation.scoring import ScoringInputs, score_variants_by_question
from xqg_jax.evaluation.search_folder import (
  SearchedQuestions,
  read_searched,
)
from xqg_jax.evaluation.variants import (
  Variant,
  describe_augmentation,
  keep_questions,
  read_needed_passages,
)
from xqg_jax.io.claims import MANIFEST_FILE, claim_output_dir
from xqg_jax.io.files import describe_files, read_json, write_json
from xqg_jax.io.paths import to_path
from xqg_jax.io.typed_json import Positive, Seed

TUNING_FILE = "tuning.json"
ALPHAS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3)


class CrossValidated(TypedDict):
  """What alphas reach on questions that they were not chosen by."""

  value: float
  alpha_0: float
  optimistic: float
  difference: float
  interval: tuple[float, float]
  p: float


class Tuning(TypedDict):
  """Contents of `tuning.json`."""

  measure: str
  reduction: str
  alpha: float
  curve: dict[str, float]
  center: float
  center_curve: dict[str, float]
  cross_validated: CrossValidated


def tune_alpha(
  *,
  search: str | os.PathLike,
  questions: str | os.PathLike,
  passages: str | os.PathLike,
  output_dir: str | os.PathLike,
  alphas: Sequence[float] = ALPHAS,
  reduction: Reduction = "sum",
  remove_mean: bool = False,
  centers: CenterGrid = NO_GRID,
  measure: str = "R@2kt",
  qrels: str | os.PathLike | None = None,
  qrels_field: str | None = None,
  tokenizer: str = "no_sentences",
  punkt_dir: str | os.PathLike | None = None,
  num_folds: Positive = 5,
  k: Positive = 100,
  seed: Seed = 0,
) -> dict[str, Any]:
  """Chooses alpha by a search folder's questions, with cross-validation.

  Alpha 0, the passages as they are, is always among the candidates. Values are
  macro averages over languages, in percent; folds hold every language in equal
  parts; of equally good alphas the smallest is taken.

  Args:
    search: folder that `xqg search` wrote, over a store with query sums or a
      view of it.
    questions: the questions that were searched with, or some of them.
    passages: file of the passages.
    output_dir: folder of `tuning.json`; an identical call finds it there.
    alphas: candidates.
    reduction: "sum" or "mean".
    remove_mean: as `augment` takes it.
    centers: strengths of centring, to be tried with every alpha; 0 is always
      among them, and of equally good ones the smallest is taken. Without any,
      questions stay as they were searched.
    measure: what is to be large: "R@2kt" (any number of thousands), or a
      measure of ir_measures, such as "RR@10".
    qrels: relevance judgements; the questions' answers when absent.
    qrels_field: field of JSONL qrels that lists the relevant passages.
    tokenizer: of the tokens in R@kt, as `evaluate` takes it.
    punkt_dir: NLTK data folder for the tokenizer "punkt".
    num_folds: parts into which each language's questions are cut.
    k: passages ranked for each question.
    seed: of the cut, the randomization test and the bootstrap.

  Returns:
    The content of `tuning.json`: `alpha`, best on all questions; `curve`, the
    value of every alpha on all questions; `cross_validated`, the value that
    alphas chosen without a question reach on it, beside that of alpha 0,
    the gain with its interval and p, and the alpha of each fold. `center` is
    the best strength; the curve is of alphas at that strength, `center_curve`
    of strengths at the best alpha.

  Raises:
    InputError: no search folder, a store without query sums, candidates or
      folds that cannot be.
  """
  augmentations = _make_augmentations(alphas, reduction, remove_mean, centers)
  settings = _make_settings(measure, tokenizer) | {"qrels_field": qrels_field}
  searched = read_searched(search)
  centerings = _open_centerings(centers, searched)
  arguments = {
    "candidates": [a and a.to_json() for a in augmentations.values()],
    "centers": [centering.to_json() for centering in centerings],
    "settings": settings | {"num_folds": num_folds, "k": k, "seed": seed},
    "inputs": _describe_inputs(search, questions, passages, qrels),
  }
  folder = to_path(output_dir)
  if (folder / TUNING_FILE).exists():
    claim_output_dir(folder, stage="tune-alpha", arguments=arguments)
    content = read_json(folder / TUNING_FILE, Tuning)
    print(_format(content))
    return content
  inputs = ScoringInputs.read(questions, qrels, settings, punkt_dir=punkt_dir)
  candidates = _search_candidates(searched, augmentations, centerings, k=k)
  variants = [
    keep_questions(variant, inputs.questions, questions)
    for variant in candidates.values()
  ]
  texts, variants = read_needed_passages(passages, variants)
  scores, notes = score_variants_by_question(variants, inputs, texts)
  if measure not in scores.measures:
    raise InputError(
      f"{measure!r} cannot be measured without qrels", mend="set QRELS"
    )
  found = choose_alpha(scores, measure, num_folds=num_folds, seed=seed)
  content = {
    "measure": measure,
    "reduction": reduction,
    "remove_mean": remove_mean,
    **_describe_choice(found, {v.name: key for key, v in candidates.items()}),
    "num_questions": len(scores.question_ids),
    "notes": notes,
  }
  folder = claim_output_dir(output_dir, stage="tune-alpha", arguments=arguments)
  write_json(folder / TUNING_FILE, content)
  print(_format(content))
  return content


def _describe_inputs(
  search: str | os.PathLike,
  questions: str | os.PathLike,
  passages: str | os.PathLike,
  qrels: str | os.PathLike | None,
) -> dict[str, Any]:
  """Names and checksums: a moved file is the same, a changed one is not."""
  (manifest,) = describe_files([to_path(search) / MANIFEST_FILE])
  return {
    "search": manifest["sha256"],
    "questions": describe_files([questions])[0]["sha256"],
    "passages": [
      file["sha256"] for file in describe_files(list_passage_files(passages))
    ],
    "qrels": qrels and describe_files([qrels])[0]["sha256"],
  }


def _make_augmentations(
  alphas: Sequence[float],
  reduction: Reduction,
  remove_mean: bool,
  centers: CenterGrid,
) -> dict[float, Augmentation | None]:
  """By alpha; alpha 0 needs no queries where nothing else is asked for."""
  if not alphas and not centers.strengths:
    raise InputError("no alphas to choose from", mend="set ALPHAS")
  if not alphas:
    return {0.0: None}
  return {
    alpha: Augmentation(
      reduction=reduction, alpha=alpha, remove_mean=remove_mean
    )
    for alpha in sorted({0.0, *alphas})
  }


def _open_centerings(
  centers: CenterGrid, searched: SearchedQuestions
) -> list[Centering]:
  """0 is always tried; without a grid, questions stay as they were searched."""
  if not centers.strengths:
    return [searched.read_centering()]
  strengths = tuple(sorted({0.0, *centers.strengths}))
  return dataclasses.replace(centers, strengths=strengths).open(searched)


def _search_candidates(
  searched: SearchedQuestions,
  augmentations: Mapping[float, Augmentation | None],
  centerings: Sequence[Centering],
  *,
  k: int,
) -> dict[tuple[float, float], Variant]:
  """By strength and alpha, in ascending order: of equals the first is taken."""
  by_name = {
    describe_augmentation(augmentation): augmentation
    for augmentation in augmentations.values()
  }
  keys = itertools.product([c.strength for c in centerings], augmentations)
  variants = score_centered(searched, by_name, centerings, k=k)
  return dict(zip(keys, variants, strict=True))


def _describe_choice(
  found: Choice, keys: Mapping[str, tuple[float, float]]
) -> dict[str, Any]:
  """Numbers in the place of the variants' names."""
  center, alpha = keys[found.best]
  values = {keys[name]: value for name, value in found.curve.items()}
  return {
    "alpha": alpha,
    "center": center,
    "curve": {f"{a:g}": v for (c, a), v in values.items() if c == center},
    "center_curve": {f"{c:g}": v for (c, a), v in values.items() if a == alpha},
    "cross_validated": {
      "value": found.value,
      "alpha_0": next(iter(found.curve.values())),
      **found.gain,
      "optimistic": found.curve[found.best],
      "fold_alphas": [keys[name][1] for name in found.by_fold],
      "fold_centers": [keys[name][0] for name in found.by_fold],
    },
  }


def _make_settings(measure: str, tokenizer: str) -> dict[str, Any]:
  """What `ScoringInputs` reads, for one measure.

  >>> _make_settings("R@2kt", "punkt")["token_budgets"]
  [2000]
  """
  is_budget = measure.startswith("R@") and measure.endswith("kt")
  budget = measure[2:-2]
  if is_budget and not budget.isdecimal():
    raise InputError(f"unknown measure {measure!r}", mend='use "R@2kt"')
  return {
    "token_budgets": [1000 * int(budget)] if is_budget else [],
    "measures": [] if is_budget else [measure],
    "tokenizer": tokenizer,
  }


# ------------------------------------------------------------ cross-validation


def _format(content: Mapping[str, Any]) -> str:
  found = content["cross_validated"]
  lines = [f"alpha   {content['measure']}"]
  lines += [f"{a:<7} {value:.1f}" for a, value in content["curve"].items()]
  best = f"best: {content['alpha']:g} ({content['reduction']})"
  curve = content["center_curve"]
  if content["center"] or len(curve) > 1:
    lines.append(f"centre  {content['measure']}")
    lines += [f"{c:<7} {value:.1f}" for c, value in curve.items()]
    best += f", questions centred by {content['center']:g}"
  return "\n".join(
    [
      *lines,
      best,
      f"cross-validated: {found['value']:.1f} (alpha 0: "
      f"{found['alpha_0']:.1f}; on the questions it was chosen by: "
      f"{found['optimistic']:.1f})",
      f"gain: {found['difference']:+.1f} ({found['interval'][0]:+.1f} to "
      f"{found['interval'][1]:+.1f}), p = {found['p']:.4f}",
    ]
  )
