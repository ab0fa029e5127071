"""Stage `pool`: the evaluations of several seeds as one."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from xqg_jax.errors import InputError
from xqg_jax.evaluation.comparison import Scores, compare_variants
from xqg_jax.evaluation.result_files import EvaluationManifest, Inputs
from xqg_jax.evaluation.results import (
  EXAMPLES_FILE,
  METRICS_FILE,
  Evaluation,
  describe_metrics,
  load_evaluation,
  read_examples,
  read_inputs,
  read_manifest,
  write_evaluation,
)
from xqg_jax.evaluation.tables import Layout, check_layout, print_table
from xqg_jax.io.claims import MANIFEST_FILE, claim_output_dir
from xqg_jax.io.files import sha256_file, write_json
from xqg_jax.io.manifests import read_sound_manifest, sum_files
from xqg_jax.io.paths import Path
from xqg_jax.io.typed_json import Positive, Seed


def pool(
  *,
  evaluations: Sequence[str | os.PathLike],
  output_dir: str | os.PathLike,
  rounds: Positive = 10_000,
  seed: Seed = 0,
  format: Layout = "text",
) -> Evaluation:
  """Aggregates evaluations made with several seeds, and prints the table.

  Values and differences are means over the evaluations, with their standard
  deviation beside them. The paired tests take all questions together: a
  question that several evaluations share (their question files are the same)
  enters once, with its mean over the evaluations, because its values are not
  independent; questions of different collections enter each for itself.

  Args:
    evaluations: folders of `evaluate`, made alike.
    output_dir: folder to write, of the same form: `report` takes it.
    rounds: of the randomization test and the bootstrap.
    seed: of both.
    format: of the tables printed, as `evaluate` takes it.

  Raises:
    InputError: a folder without a finished evaluation, or with other
      variants, measures or another baseline than the first.
  """
  check_layout(format)
  loaded = [load_evaluation(folder) for folder in evaluations]
  _check_alike(loaded)
  folder = claim_output_dir(
    output_dir,
    stage="pool",
    arguments={
      "evaluations": [
        {"path": str(e.folder), "sha256": sha256_file(e.folder / METRICS_FILE)}
        for e in loaded
      ],
      "rounds": rounds,
      "seed": seed,
    },
  )
  if read_sound_manifest(folder, EvaluationManifest, task="pool") is None:
    scores = _pool_scores(loaded)
    metrics = _pool_metrics(loaded, scores, rounds, seed)
    write_evaluation(folder, scores, metrics)
    # Examples stand for themselves: the first evaluation's will do.
    examples = loaded[0].folder / EXAMPLES_FILE
    if examples.is_file():
      write_json(folder / EXAMPLES_FILE, read_examples(loaded[0]))
    _finish(folder, loaded)
  pooled = load_evaluation(folder)
  print_table(pooled.metrics, format)
  return pooled


def _check_alike(loaded: Sequence[Evaluation]) -> None:
  if not loaded:
    raise InputError("no evaluations to pool", mend="give their folders")
  first = loaded[0].metrics
  for evaluation in loaded[1:]:
    for key in ("baseline", "measures", "variants"):
      # Of the variants only the names must agree.
      mine, others = evaluation.metrics[key], first[key]
      if (list(mine) != list(others)) or (key != "variants" and mine != others):
        raise InputError(
          f"not the same {key} as in {loaded[0].folder}",
          where=evaluation.folder,
          mend="pool evaluations that were made alike",
        )


def _pool_scores(loaded: Sequence[Evaluation]) -> Scores:
  """One row for each question of each question file."""
  rows: dict[tuple[str, str], list[tuple[int, int]]] = {}
  for number, evaluation in enumerate(loaded):
    inputs = _read_inputs(evaluation)
    for row, question_id in enumerate(evaluation.scores.question_ids):
      key = inputs["questions"]["sha256"], question_id
      rows.setdefault(key, []).append((number, row))
  members = list(rows.values())
  return Scores(
    question_ids=tuple(f"{sha256[:8]}:{q}" for sha256, q in rows),
    languages=tuple(
      loaded[places[0][0]].scores.languages[places[0][1]] for places in members
    ),
    measures=loaded[0].scores.measures,
    values={
      name: np.array(
        [
          np.mean([loaded[n].scores.values[name][r] for n, r in places], axis=0)
          for places in members
        ]
      )
      for name in loaded[0].scores.values
    },
  )


def _read_inputs(evaluation: Evaluation) -> Inputs:
  inputs = read_inputs(evaluation)
  if len(inputs) > 1:
    raise InputError(
      "is pooled already",
      where=evaluation.folder,
      mend="give the evaluations that it was pooled from",
    )
  return inputs[0]


def _pool_metrics(
  loaded: Sequence[Evaluation], scores: Scores, rounds: int, seed: int
) -> dict[str, Any]:
  first = loaded[0].metrics
  compared = compare_variants(
    scores, baseline=first["baseline"], rounds=rounds, seed=seed
  )
  for variant, by_measure in compared.items():
    for measure, entry in by_measure.items():
      _add_seeds(entry["macro"], loaded, variant, measure, None)
      for language, cell in entry["languages"].items():
        _add_seeds(cell, loaded, variant, measure, language)
  notes = [
    f"means over {len(loaded)} evaluations, ± their standard deviation",
    *first["notes"],
  ]
  variants = {
    name: {
      "augmentation": entry["augmentation"],
      "missing_questions": sum(
        e.metrics["variants"][name]["missing_questions"] for e in loaded
      ),
      "measures": compared[name],
    }
    for name, entry in first["variants"].items()
  }
  settings = first["settings"] | {"rounds": rounds, "seed": seed}
  return describe_metrics(scores, settings, notes, variants) | {
    "relevance": first["relevance"],
    "pooled": [str(e.folder) for e in loaded],
  }


def _add_seeds(
  entry: dict[str, Any],
  loaded: Sequence[Evaluation],
  variant: str,
  measure: str,
  language: str | None,
) -> None:
  """Adds the mean and standard deviation over the evaluations to a cell."""
  cells: list[Mapping[str, Any]] = []
  for evaluation in loaded:
    measured = evaluation.metrics["variants"][variant]["measures"][measure]
    if language is None:
      cells.append(measured["macro"])
    elif language in measured["languages"]:
      cells.append(measured["languages"][language])
  values = [cell["value"] for cell in cells]
  entry["value"] = float(np.mean(values))
  entry["seeds"] = values
  entry["sd"] = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
  if "difference" in entry:
    differences = [cell["difference"] for cell in cells]
    entry["difference"] = float(np.mean(differences))
    entry["difference_seeds"] = differences


def _finish(folder: Path, loaded: Sequence[Evaluation]) -> None:
  manifests = [read_manifest(e) for e in loaded]
  manifest = {
    "format_version": 1,
    "stage": "pool",
    "inputs": {
      "evaluations": [
        {"path": str(e.folder), "inputs": m["inputs"]}
        for e, m in zip(loaded, manifests, strict=True)
      ]
    },
    "searches": manifests[0].get("searches", {}),
    "files": sum_files(folder),
  }
  write_json(folder / MANIFEST_FILE, manifest)
