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
from xqg_jax.errors import InputError
from xqg_jax.evaluation.alpha_choice import choose_alpha
from xqg_jax.evaluation.scoring import ScoringInputs, score_variants_by_question
from xqg_jax.evaluation.variants import (
  describe_augmentation,
  read_needed_passages,
  score_augmentations,
)
from xqg_jax.io.claims import MANIFEST_FILE, claim_output_dir
from xqg_jax.io.files import read_json, sha256_file, write_json
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
    questions: the questions that were searched with.
    passages: file of the passages.
    output_dir: folder of `tuning.json`; an identical call finds it there.
    alphas: candidates.
    reduction: "sum" or "mean".
    remove_mean: as `augment` takes it.
    measure: what is to be large: "R@2kt" (any number of thousands), or a
      measure of ir_measures, such as "RR@10".
    qrels: relevance judgements; the questions' answers when absent.
    tokenizer: of the tokens in R@kt, as `evaluate` takes it.
    punkt_dir: NLTK data folder for the tokenizer "punkt".
    num_folds: parts into which each language's questions are cut.
    k: passages ranked for each question.
    seed: of the cut.

  Returns:
    The content of `tuning.json`: `alpha`, best on all questions; `curve`, the
    value of every alpha on all questions; `cross_validated`, the value that
    alphas chosen without a question reach on it, beside that of alpha 0; and
    the alpha of each fold.

  Raises:
    InputError: no search folder, a store without query sums, candidates or
      folds that cannot be.
  """
  arguments = {k: v for k, v in locals().items() if k != "output_dir"}
  candidates = _make_candidates(alphas, reduction, remove_mean)
  settings = _make_settings(measure, tokenizer)
  inputs = ScoringInputs.read(questions, qrels, settings, punkt_dir=punkt_dir)
  manifest = to_path(search) / MANIFEST_FILE
  read_json(manifest)  # before anything is written
  arguments |= {"search": sha256_file(manifest)}
  variants = score_augmentations(search, candidates, k=k)
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
    "qrels_field": None,
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
    ]
  )
