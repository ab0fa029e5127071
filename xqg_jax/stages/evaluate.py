"""Stage `evaluate`: runs scored and compared with a baseline."""

import dataclasses
import functools
import importlib.metadata
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from xqg_jax.augmentation.centering import (
  Centering,
)
from xqg_jax.augmentation.settings import Augmentation, Reduction
from xqg_jax.data.passages import Passage, list_passage_files
from xqg_jax.data.predictions import write_predictions
from xqg_jax.data.questions import Question
from xqg_jax.data.runs import write_run
from xqg_jax.errors import InputError
from xqg_jax.evaluation.center_grid import (
  NO_GRID,
  CenterGrid,
  score_centered,
)
from xqg_jax.evaluation.comparison import Scores, compare_variants
from xqg_jax.evaluation.examples import choose_examples
from xqg_jax.evaluation.result_files import EvaluationManifest
from xqg_jax.evaluation.results import (
  EXAMPLES_FILE,
  FORMAT_VERSION,
  Evaluation,
  describe_metrics,
  load_evaluation,
  write_evaluation,
)
from xqg_jax.evaluation.scoring import ScoringInputs, score_variants_by_question
from xqg_jax.evaluation.search_folder import (
  SearchManifest,
  find_run_file,
  read_searched,
)
from xqg_jax.evaluation.tables import Layout, check_layout, print_table
from xqg_jax.evaluation.variants import (
  Variant,
  describe_augmentation,
  keep_questions,
  plan_augmentations,
  read_needed_passages,
  read_variant,
  score_augmentations,
)
from xqg_jax.io.claims import MANIFEST_FILE, claim_output_dir
from xqg_jax.io.files import describe_files, read_json, write_json
from xqg_jax.io.manifests import read_sound_manifest, sum_files
from xqg_jax.io.paths import Path, to_path
from xqg_jax.io.typed_json import Positive, Seed

DEFAULT_MEASURES = ("RR@10", "nDCG@10", "Success@20")


def evaluate(
  *,
  runs: Mapping[str, str | os.PathLike],
  questions: str | os.PathLike,
  passages: str | os.PathLike,
  output_dir: str | os.PathLike,
  baseline: str | None = None,
  qrels: str | os.PathLike | None = None,
  qrels_field: str | None = None,
  token_budgets: Sequence[int] = (2000, 5000),
  measures: Sequence[str] = DEFAULT_MEASURES,
  alphas: Sequence[float] | Mapping[Reduction, Sequence[float]] = (),
  reduction: Reduction = "sum",
  num_queries: Sequence[int] = (),
  augmentations: Mapping[str, Augmentation] | Sequence[Augmentation] = (),
  centers: CenterGrid = NO_GRID,
  tokenizer: Literal["punkt", "no_sentences"] = "punkt",
  punkt_dir: str | os.PathLike | None = None,
  k: Positive = 100,
  rounds: Positive = 10_000,
  seed: Seed = 0,
  format: Layout = "text",
) -> Evaluation:
  """Scores runs and compares them with a baseline, language by language.

  Prints a table and writes `metrics.json`, `per_question.jsonl`, `table.txt`,
  `examples.json`, and each variant's `runs/NAME.trec` and
  `predictions/NAME.json` (what XOR-Retrieve's scorer takes). A second
  identical call returns what the first wrote.

  Args:
    runs: search folders, TREC run files or XOR-Retrieve prediction files
      (`.json`), by the names to show.
    questions: XOR-TyDi JSONL, those of the runs or some of them. Answers may
      be absent where there are qrels: R@2kt is then of the others alone.
    passages: the passages that were searched, a file or a folder of files.
    output_dir: folder to write.
    baseline: name of the run that the others are compared with; the first by
      default.
    qrels: relevance judgements, TREC or JSONL. Without them a passage of a
      ranking is relevant when it contains an answer, and measures that need
      all relevant passages (recall, nDCG) are left out.
    qrels_field: field of JSONL qrels that lists the relevant passages.
    token_budgets: budgets of success_at_k_tokens (R@2kt, R@5kt).
    measures: names of ir_measures.
    alphas: score these alphas too, from the baseline's embeddings (which must
      come from a search folder): numbers, or {reduction: numbers}.
    reduction: "sum" or "mean", for `alphas` that are plain numbers.
    num_queries: each of `alphas` with the first n generated queries of each
      language, for these n; the store must keep queries apart by rank.
    augmentations: further augmentations to score likewise.
    centers: strengths of centring: the baseline's passages as they are, and
      each of the augmentations, also with questions centred so.
    tokenizer: "punkt" counts tokens as the official scorer does and needs
      NLTK's punkt_tab; "no_sentences" needs no data.
    punkt_dir: NLTK data folder to look for punkt_tab in.
    k: passages for each question in the variants of `alphas` and
      `augmentations`.
    rounds: of the randomization test and the bootstrap.
    seed: of both.
    format: of the tables printed: "text", "markdown", "csv" or "latex"; in a
      terminal text is as wide as it is. `table.txt` is text in any case.

  Raises:
    InputError: bad input; the message names file and line.
  """
  check_layout(format)
  if not runs:
    raise InputError("no runs to evaluate", mend="set RUNS")
  settings = {
    "baseline": baseline or next(iter(runs)),
    "qrels_field": qrels_field,
    "token_budgets": list(token_budgets),
    "measures": list(measures),
    "tokenizer": tokenizer,
    "k": k,
    "rounds": rounds,
    "seed": seed,
  }
  if num_queries and not alphas:
    raise InputError("num_queries without alphas", mend="set ALPHAS, too")
  planned = plan_augmentations(alphas, reduction, augmentations, num_queries)
  _check_settings(settings, runs, planned)
  sources = _describe_sources(runs, questions, passages, qrels)
  centerings = _open_centerings(runs[settings["baseline"]], centers)
  claim = functools.partial(
    claim_output_dir,
    output_dir,
    stage="evaluate",
    arguments={
      "inputs": sources,
      "settings": settings,
      "augmentations": {n: a.to_json() for n, a in planned.items()},
      **({"centers": [c.to_json() for c in centerings]} if centerings else {}),
    },
  )
  if _holds_something(output_dir):
    claim()
  finished = read_sound_manifest(
    to_path(output_dir), EvaluationManifest, task="evaluate"
  )
  if finished is None:
    inputs = ScoringInputs.read(questions, qrels, settings, punkt_dir=punkt_dir)
    variants = _collect_variants(runs, planned, centerings, inputs, settings)
    texts, variants = read_needed_passages(passages, variants)
    results = _Results.compute(variants, inputs, texts, settings)
    # Nothing is written before all input has proved sound.
    _write(claim(), results, inputs.questions)
    _finish(to_path(output_dir), sources, runs)
  evaluation = load_evaluation(output_dir)
  print_table(evaluation.metrics, format)
  return evaluation


def _holds_something(folder: str | os.PathLike) -> bool:
  folder = to_path(folder)
  return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def _check_settings(
  settings: Mapping[str, Any],
  runs: Mapping[str, Any],
  planned: Mapping[str, Augmentation],
) -> None:
  if settings["baseline"] not in runs:
    raise InputError(
      f"the baseline {settings['baseline']!r} is not among the runs "
      f"{', '.join(runs)}",
      mend="set BASELINE to one of them",
    )
  for name in set(runs) & set(planned):
    raise InputError(
      f"{name!r} names both a run and an augmentation", mend="rename the run"
    )
  if not (settings["token_budgets"] or settings["measures"]):
    raise InputError(
      "nothing is measured", mend="set TOKEN_BUDGETS or MEASURES"
    )
  if settings["rounds"] < 1:
    raise InputError(f"rounds is {settings['rounds']}", mend="use 10000")


def _describe_sources(
  runs: Mapping[str, str | os.PathLike],
  questions: str | os.PathLike,
  passages: str | os.PathLike,
  qrels: str | os.PathLike | None,
) -> dict[str, Any]:
  """Paths and checksums of the inputs."""
  described: dict[str, Any] = {
    "questions": _describe_file(questions),
    "runs": {n: _describe_file(find_run_file(p)) for n, p in runs.items()},
  }
  if qrels is not None:
    described["qrels"] = _describe_file(qrels)
  described["passages"] = {
    "path": str(passages),
    "files": describe_files(list_passage_files(passages)),
  }
  return described


def _describe_file(path: str | os.PathLike) -> dict[str, str]:
  (described,) = describe_files([path])
  return {"path": str(path), "sha256": described["sha256"]}


def _collect_variants(
  runs: Mapping[str, str | os.PathLike],
  planned: Mapping[str, Augmentation],
  centerings: Sequence[Centering],
  inputs: ScoringInputs,
  settings: Mapping[str, Any],
) -> list[Variant]:
  variants = [read_variant(name, path) for name, path in runs.items()]
  source, k = runs[settings["baseline"]], settings["k"]
  if planned:
    _check_search_folder(source)
    variants += score_augmentations(source, planned, k=k)
  if centerings:
    grid = {describe_augmentation(None): None, **planned}
    variants += score_centered(read_searched(source), grid, centerings, k=k)
  # The baseline comes first in every table.
  variants.sort(key=lambda variant: variant.name != settings["baseline"])
  return [
    keep_questions(variant, inputs.questions, inputs.questions_path)
    for variant in variants
  ]


def _open_centerings(
  source: str | os.PathLike, centers: CenterGrid
) -> list[Centering]:
  if not centers.strengths:
    return []
  _check_search_folder(source)
  return centers.open(read_searched(source))


def _check_search_folder(source: str | os.PathLike) -> None:
  if not to_path(source).is_dir():
    raise InputError(
      "alphas need the baseline's embeddings, and so do centers; this is not a "
      "search folder",
      where=source,
      mend="give the folder that `xqg search` wrote as the baseline",
    )


@dataclasses.dataclass(frozen=True)
class _Results:
  """All that is to be written."""

  variants: Sequence[Variant]
  passages: Mapping[str, Passage]
  scores: Scores
  metrics: Mapping[str, Any]

  @classmethod
  def compute(
    cls,
    variants: Sequence[Variant],
    inputs: ScoringInputs,
    passages: Mapping[str, Passage],
    settings: Mapping[str, Any],
  ) -> "_Results":
    """Scores and compares the variants."""
    scores, notes = score_variants_by_question(variants, inputs, passages)
    compared = compare_variants(
      scores,
      baseline=settings["baseline"],
      rounds=settings["rounds"],
      seed=settings["seed"],
    )
    described = {
      v.name: {
        "augmentation": v.augmentation and v.augmentation.to_json(),
        "centering": v.centering,
        "missing_questions": sum(
          not v.run.get(q.question_id) for q in inputs.questions
        ),
        "measures": compared[v.name],
      }
      for v in variants
    }
    metrics = describe_metrics(scores, settings, notes, described)
    metrics["relevance"] = "answers" if inputs.qrels is None else "qrels"
    return cls(variants, passages, scores, metrics)


# --------------------------------------------------------------------- writing


def _write(
  folder: Path, results: _Results, questions: Sequence[Question]
) -> None:
  names = [variant.name for variant in results.variants]
  for variant, stem in zip(results.variants, to_file_names(names), strict=True):
    write_run(folder / "runs" / f"{stem}.trec", variant.run)
    write_predictions(
      folder / "predictions" / f"{stem}.json",
      variant.run,
      questions=questions,
      passages=results.passages,
    )
  examples = choose_examples(
    results.metrics,
    results.scores,
    {variant.name: variant.run for variant in results.variants},
    questions,
    results.passages,
  )
  write_json(folder / EXAMPLES_FILE, examples)
  write_evaluation(folder, results.scores, results.metrics)


def to_file_names(names: Sequence[str]) -> list[str]:
  """File names for variants, different for different names.

  >>> to_file_names(["sum 0.01", "sum/0.01", "base"])
  ['sum_0.01', 'sum_0.01_2', 'base']
  """
  stems: list[str] = []
  for name in names:
    safe = "".join(c if c.isalnum() or c in "-._" else "_" for c in name)
    safe = safe.lstrip(".") or "variant"
    stem, number = safe, 1
    while stem in stems:
      number += 1
      stem = f"{safe}_{number}"
    stems.append(stem)
  return stems


def _finish(
  folder: Path,
  sources: Mapping[str, Any],
  runs: Mapping[str, str | os.PathLike],
) -> None:
  manifests = {name: _read_search_manifest(path) for name, path in runs.items()}
  manifest = {
    "format_version": FORMAT_VERSION,
    "stage": "evaluate",
    "inputs": sources,
    "searches": {name: m for name, m in manifests.items() if m},
    "files": sum_files(folder),
    "versions": {
      name: importlib.metadata.version(name)
      for name in ("numpy", "nltk", "ir-measures")
    },
  }
  write_json(folder / MANIFEST_FILE, manifest)


def _read_search_manifest(path: str | os.PathLike) -> dict[str, Any] | None:
  file = to_path(path) / MANIFEST_FILE
  if not file.is_file():
    return None
  manifest = read_json(file, SearchManifest)
  return {k: v for k, v in manifest.items() if not isinstance(v, list)}
