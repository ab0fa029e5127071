"""Stage `tune-alpha`: alpha chosen by cross-validation on dev questions.

The scores of every alpha follow from two score matrices, of passages and of
query sums. A value that was chosen on the very questions it is reported on
looks better than it is, so the questions are cut into folds: each fold is
scored with the value that is best on all others.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from xqg_jax.augmentation.settings import Augmentation, Reduction
from xqg_jax.data.passages import list_passage_files
from xqg_jax.errors import InputError
from xqg_jax.evaluation.alpha_choice import choose_alpha
from xqg_jax.evaluation.scoring import ScoringInputs, score_variants_by_question
from xqg_jax.evaluation.variants import (
  describe_augmentation,
  keep_questions,
  read_needed_passages,
  score_augmentations,
)
from xqg_jax.io.claims import MANIFEST_FILE, claim_output_dir
from xqg_jax.io.files import describe_files, read_json, write_json
from xqg_jax.io.paths import to_path

TUNING_FILE = "tuning.json"
ALPHAS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3)


def tune_alpha(
  *,
  search: str | os.PathLike,
  questions: str | os.PathLike,
  passages: str | os.PathLike,
  output_dir: str | os.PathLike,
  alphas: Sequence[float] = ALPHAS,
  reduction: Reduction = "sum",
  remove_mean: bool = False,
  measure: str = "R@2kt",
  qrels: str | os.PathLike | None = None,
  qrels_field: str | None = None,
  tokenizer: str = "no_sentences",
  punkt_dir: str | os.PathLike | None = None,
  num_folds: int = 5,
  k: int = 100,
  seed: int = 0,
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
    the gain with its interval and p, and the alpha of each fold.

  Raises:
    InputError: no search folder, a store without query sums, candidates or
      folds that cannot be.
  """
  candidates = _make_candidates(alphas, reduction, remove_mean)
  settings = _make_settings(measure, tokenizer) | {"qrels_field": qrels_field}
  arguments = {
    "candidates": {name: a.to_json() for name, a in candidates.items()},
    "settings": settings | {"num_folds": num_folds, "k": k, "seed": seed},
    "inputs": _describe_inputs(search, questions, passages, qrels),
  }
  folder = to_path(output_dir)
  if (folder / TUNING_FILE).exists():
    claim_output_dir(folder, stage="tune-alpha", arguments=arguments)
    content = read_json(folder / TUNING_FILE)
    print(_format(content))
    return content
  inputs = ScoringInputs.read(questions, qrels, settings, punkt_dir=punkt_dir)
  variants = [
    keep_questions(variant, inputs.questions, questions)
    for variant in score_augmentations(search, candidates, k=k)
  ]
  texts, variants = read_needed_passages(passages, variants)
  scores, notes = score_variants_by_question(variants, inputs, texts)
  if measure not in scores.measures:
    raise InputError(
      f"{measure!r} cannot be measured without qrels", mend="set QRELS"
    )
  found = choose_alpha(scores, measure, num_folds=num_folds, seed=seed)
  alpha_of = {name: a.alpha for name, a in candidates.items()}
  content = {
    "measure": measure,
    "reduction": reduction,
    "remove_mean": remove_mean,
    "alpha": alpha_of[found.best],
    "curve": {
      f"{alpha_of[name]:g}": value for name, value in found.curve.items()
    },
    "cross_validated": {
      "value": found.value,
      "alpha_0": next(iter(found.curve.values())),
      **found.gain,
      "optimistic": found.curve[found.best],
      "fold_alphas": [alpha_of[name] for name in found.by_fold],
    },
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


def _make_candidates(
  alphas: Sequence[float], reduction: Reduction, remove_mean: bool
) -> dict[str, Augmentation]:
  if not alphas:
    raise InputError("no alphas to choose from", mend="set ALPHAS")
  candidates = [
    Augmentation(reduction=reduction, alpha=alpha, remove_mean=remove_mean)
    for alpha in sorted({0.0, *alphas})
  ]
  return {describe_augmentation(a): a for a in candidates}


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
  return "\n".join(
    [
      *lines,
      f"best: {content['alpha']:g} ({content['reduction']})",
      f"cross-validated: {found['value']:.1f} (alpha 0: "
      f"{found['alpha_0']:.1f}; on the questions it was chosen by: "
      f"{found['optimistic']:.1f})",
      f"gain: {found['difference']:+.1f} ({found['interval'][0]:+.1f} to "
      f"{found['interval'][1]:+.1f}), p = {found['p']:.4f}",
    ]
  )
