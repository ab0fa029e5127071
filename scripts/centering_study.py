"""Centred questions, compared on real collections with an encoder as it is.

  python scripts/centering_study.py --checkpoint_path=e5-small \
    --help_collections=help --xquad_xor=xquad_xor --xquad=xquad \
    --xor_tydi=xor_tydi --cache=vectors --output=centering.json

Every strength and weight is chosen by cross-validation: each fold of a
language's questions is scored with what is best on the others. Controls have
one strength, 0.8.
"""

import argparse
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import centering_baselines as baselines
import numpy as np
from centering_collections import (
  XQUAD_OTHERS,
  Collection,
  read_gnome,
  read_libreoffice,
  read_xquad_xor,
  translate,
)
from centering_vectors import (
  Cache,
  CheckpointEncoder,
  Embedded,
  OnnxEncoder,
  reciprocal_ranks,
)
from jaxtyping import Bool, Float

from xqg_jax.augmentation.language_means import (
  LanguageMeans,
  measure_means,
)
from xqg_jax.data.question_bank import read_bank
from xqg_jax.data.questions import read_questions
from xqg_jax.evaluation.alpha_choice import choose_alpha, make_folds
from xqg_jax.evaluation.comparison import Scores, compare_variants
from xqg_jax.evaluation.significance import holm_correction
from xqg_jax.io.files import write_json

STRENGTHS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2)
WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4)
FIXED = 0.8
NUM_FOLDS, ROUNDS, SEED = 5, 10_000, 0
DRAWS = 20  # of small banks and of random vectors
BANK_SIZES = (8, 32, 128)
MEASURE = "RR@10"


# -------------------------------------------------------------------- families


Family = dict[str, Float[np.ndarray, " questions"]]


@dataclasses.dataclass(frozen=True)
class Study:
  """All settings of one embedded collection."""

  data: Embedded

  def rank(self, scores: np.ndarray) -> np.ndarray:
    """Reciprocal ranks of the questions."""
    return reciprocal_ranks(scores, self.data.relevant)

  def center(
    self, means: LanguageMeans, strength: float, *, by: str = "language"
  ) -> np.ndarray:
    """The questions, centred."""
    offsets = means.select(self.data.languages, by=by)
    return (self.data.questions - strength * offsets).astype(np.float32)

  @functools.cached_property
  def fused(self) -> np.ndarray:
    """The mean of each passage's queries; its own vector without any."""
    return self._mean_queries(np.ones(len(self.data.queries), bool))

  def _mean_queries(self, chosen: Bool[np.ndarray, " queries"]) -> np.ndarray:
    rows = np.array([query.row for query in self.data.collection.queries])
    sums = np.zeros_like(self.data.passages)
    np.add.at(sums, rows[chosen], self.data.queries[chosen])
    counts = np.bincount(rows[chosen], minlength=len(sums))[:, None]
    means = sums / np.maximum(counts, 1)
    return np.where(counts > 0, means, self.data.passages)

  # Each of these gives the scores of what stands beside the passage.

  def fuse_mean(self, questions: np.ndarray) -> np.ndarray:
    """Question times the mean of all queries."""
    return questions @ self.fused.T

  def fuse_language(self, questions: np.ndarray) -> np.ndarray:
    """Question times the mean of the queries in its language."""
    codes = np.array([q.language for q in self.data.collection.queries])
    asked = np.array(self.data.languages)
    scores = np.zeros((len(questions), len(self.data.passages)), np.float32)
    for language in set(self.data.languages):
      scores[asked == language] = (
        questions[asked == language] @ self._mean_queries(codes == language).T
      )
    return scores

  def fuse_best(self, questions: np.ndarray) -> np.ndarray:
    """Question times the best of the passage's queries."""
    rows = np.array([query.row for query in self.data.collection.queries])
    order = np.argsort(rows, kind="stable")
    starts = np.flatnonzero(np.diff(rows[order], prepend=-1))
    scores = questions @ self.data.passages.T
    products = questions @ self.data.queries[order].T
    best = np.maximum.reduceat(products, starts, axis=1)
    scores[:, rows[order][starts]] = best
    return scores

  def sweep_strengths(
    self, means: LanguageMeans, *, by: str = "language"
  ) -> Family:
    """Centred questions on the passages as they are."""
    passages = self.data.passages.T
    return {
      f"{s:g}": self.rank(self.center(means, s, by=by) @ passages)
      for s in STRENGTHS
    }

  def sweep_weights(
    self,
    means: LanguageMeans,
    fuse: Callable[[np.ndarray], np.ndarray],
    strengths: Sequence[float] = STRENGTHS,
  ) -> Family:
    """Every strength with every weight of what `fuse` adds."""
    found = {}
    for strength in strengths:
      questions = self.center(means, strength)
      alone, added = questions @ self.data.passages.T, fuse(questions)
      for weight in WEIGHTS:
        scores = (1 - weight) * alone + weight * added
        found[f"{strength:g} {weight:g}"] = self.rank(scores)
    return found


def to_scores(family: Family, questions: Sequence[Any]) -> Scores:
  """In the form that the package compares."""
  return Scores(
    tuple(q.question_id for q in questions),
    tuple(q.language for q in questions),
    (MEASURE,),
    {name: values[:, None] for name, values in family.items()},
  )


def choose(
  family: Family, questions: Sequence[Any]
) -> tuple[Float[np.ndarray, " questions"], dict[str, Any]]:
  """Cross-validated values, and what they were chosen as."""
  scores = to_scores(family, questions)
  found = choose_alpha(scores, MEASURE, num_folds=NUM_FOLDS, seed=SEED)
  folds = make_folds(np.array(scores.languages), num_folds=NUM_FOLDS, seed=SEED)
  values = np.zeros(len(folds))
  for fold, name in enumerate(found.by_fold):
    values[folds == fold] = family[name][folds == fold]
  return values, {"best": found.best, "by_fold": list(found.by_fold)}


# ------------------------------------------------------------------- the tables


@dataclasses.dataclass(frozen=True)
class Banks:
  """Means of questions from elsewhere."""

  shipped: LanguageMeans
  parallel: Mapping[str, np.ndarray]
  xor_tydi: LanguageMeans

  @classmethod
  def make(cls, cache: Cache, xor_tydi: pathlib.Path) -> "Banks":
    """Of the shipped bank and of XOR-TyDi's training questions."""
    codes, texts = zip(*read_bank(), strict=True)
    vectors, of_row = cache.queries(texts), np.array(codes)
    training = read_questions(xor_tydi / "xor_train_retrieve_eng_span.jsonl")
    return cls(
      measure_means(vectors, codes),
      {code: vectors[of_row == code] for code in sorted(set(codes))},
      measure_means(
        cache.queries([q.question for q in training]),
        [q.language for q in training],
      ),
    )


def compare(study: Study, banks: Banks) -> dict[str, Any]:
  """The main rows: each against the base, and the fused ones by two."""
  own, questions = study.data.means, study.data.collection.questions
  rows: Family = {"base": study.sweep_strengths(own)["0"]}
  chosen: dict[str, Any] = {}

  def add(name: str, family: Family) -> None:
    rows[name], chosen[name] = choose(family, questions)

  add("centred", study.sweep_strengths(own))
  add("centred by the mean over all", study.sweep_strengths(own, by="all"))
  add("centred by the shipped bank", study.sweep_strengths(banks.shipped))
  add(
    "centred by the shipped bank's mean over all",
    study.sweep_strengths(banks.shipped, by="all"),
  )
  add("centred by XOR-TyDi's questions", study.sweep_strengths(banks.xor_tydi))
  if study.data.collection.can_augment:
    add("augmented", study.sweep_weights(own, study.fuse_mean, (0.0,)))
    for name, fuse in (
      ("centred and augmented", study.fuse_mean),
      ("centred, best of the passage's queries", study.fuse_best),
      ("centred, queries of the question's language", study.fuse_language),
    ):
      add(name, study.sweep_weights(own, fuse))
  table = describe(rows, questions)
  for name, found in chosen.items():
    table[name]["chosen"] = found
  return table


def fix(study: Study) -> dict[str, Any]:
  """The same at one strength and weight, for comparison with others."""
  own = study.data.means
  rows = {"base": study.sweep_strengths(own)["0"]}
  rows["centred 0.8"] = study.sweep_strengths(own)["0.8"]
  rows["mean over all 1"] = study.sweep_strengths(own, by="all")["1"]
  if study.data.collection.can_augment:
    for name, fuse, keys in (
      ("mean", study.fuse_mean, ("0 0.2", "0.8 0.2")),
      ("best", study.fuse_best, ("0.8 0.1", "0.8 0.3")),
      ("language", study.fuse_language, ("0.8 0.1",)),
    ):
      family = study.sweep_weights(own, fuse, (0.0, FIXED))
      rows |= {f"{name} {key}": family[key] for key in keys}
  return describe(rows, study.data.collection.questions)


def describe(rows: Family, questions: Sequence[Any]) -> dict[str, Any]:
  """Values, differences from the first row, intervals, tests, Holm."""
  scores = to_scores(rows, questions)
  baseline = next(iter(rows))
  found = compare_variants(scores, baseline=baseline, rounds=ROUNDS, seed=SEED)
  table = {name: dict(entry[MEASURE]) for name, entry in found.items()}
  others = [name for name in table if name != baseline]
  corrected = holm_correction([table[n]["macro"]["p"] for n in others])
  for name, p in zip(others, corrected, strict=True):
    table[name]["macro"]["p_holm"] = float(p)
  return table


# --------------------------------------------------------------------- controls


def control(study: Study, banks: Banks) -> dict[str, Any]:
  """What else could be subtracted, and other corrections."""
  data, own = study.data, study.data.means
  rows: Family = {"centred 0.8": study.sweep_strengths(own)["0.8"]}
  base = study.sweep_strengths(own)["0"]
  passages, all_passages = data.passages, data.passages.mean(axis=0)
  asked = np.array(data.languages)

  def subtract(offsets: np.ndarray) -> np.ndarray:
    return study.rank((data.questions - FIXED * offsets) @ passages.T)

  rows["nothing"] = base
  rows["another language's mean"] = subtract(own.select(shift(data.languages)))
  rows["the passages' mean"] = subtract(all_passages[None])
  rows["a random vector"] = average_random(study)
  rows["language mean less the passages' mean"] = subtract(
    own.select(data.languages) - all_passages
  )
  if set(asked) <= set(banks.parallel):
    shifts = baselines.measure_shifts(banks.parallel)
    offsets = np.stack([shifts[code] for code in data.languages])
    rows["SHIFT, offset from English in the bank"] = subtract(offsets / FIXED)
  rows |= correct_means(study)
  rows |= remove_components(study)
  return describe(rows, data.collection.questions)


def shift(languages: Sequence[str]) -> list[str]:
  """The next language in the place of each."""
  codes = sorted(set(languages))
  return [codes[(codes.index(c) + 1) % len(codes)] for c in languages]


def average_random(study: Study) -> np.ndarray:
  """Ranks without a random vector of the mean's length, over draws."""
  data, rng = study.data, np.random.default_rng(SEED)
  lengths = np.linalg.norm(data.means.select(data.languages), axis=1)
  found = []
  for _ in range(DRAWS):
    drawn = baselines.normalize(rng.standard_normal((1, data.means.dim)))
    moved = data.questions - FIXED * lengths[:, None] * drawn
    found.append(study.rank(moved.astype(np.float32) @ data.passages.T))
  return np.mean(found, axis=0)


def correct_means(study: Study) -> Family:
  """The mean-bias corrections of arXiv 2511.11041."""
  data, rows = study.data, {}
  sample = np.concatenate([data.queries, data.passages])
  for name, project in (("subtracted", False), ("projected off", True)):
    questions, passages = baselines.remove_mean_of_all(
      data.questions, data.passages, sample, project=project
    )
    rows[f"one mean of everything {name} from both sides"] = study.rank(
      questions @ passages.T
    )
  questions = baselines.normalize(study.center(data.means, 1.0))
  passages = data.passages - data.passages.mean(axis=0)
  rows["a mean for each side and language, unit vectors"] = study.rank(
    questions @ baselines.normalize(passages).T
  )
  return rows


def remove_components(study: Study) -> Family:
  """LIR: components of the queries' and of the passages' vectors."""
  data = study.data
  codes = np.array([q.language for q in data.collection.queries])
  bank = {code: data.queries[codes == code] for code in set(codes)}
  rows = {}
  for rank in (1, 2, 4):
    questions = baselines.remove_language_components(
      data.questions, data.languages, bank, rank=rank
    )
    components = baselines.find_components(data.passages, rank)
    passages = baselines.remove_components(data.passages, components)
    rows[f"LIR, {rank} components"] = study.rank(questions @ passages.T)
  return rows


def vary_banks(study: Study) -> dict[str, Any]:
  """Few queries a language: mean and deviation over draws."""
  data, rng = study.data, np.random.default_rng(SEED)
  codes = np.array([q.language for q in data.collection.queries])
  found = {}
  for size in BANK_SIZES:
    values = []
    for _ in range(DRAWS):
      rows = np.concatenate(
        [
          rng.permutation(np.flatnonzero(codes == code))[:size]
          for code in sorted(set(codes))
        ]
      )
      means = measure_means(data.queries[rows], codes[rows].tolist())
      ranks = study.rank(study.center(means, FIXED) @ data.passages.T)
      values.append(average(ranks, data.languages))
    found[str(size)] = {
      "mean": float(np.mean(values)),
      "deviation": float(np.std(values, ddof=1)),
    }
  return found


def average(values: np.ndarray, languages: Sequence[str]) -> float:
  """Macro average over languages, in percent."""
  codes = np.array(languages)
  return 100 * float(
    np.mean([values[codes == code].mean() for code in sorted(set(languages))])
  )


def choose_by_round_trips(study: Study) -> dict[str, Any]:
  """The strength that held-out queries choose, which no one has judged.

  Each query is asked; relevant are the passages that have the same query.
  Means are of the other half of the queries.
  """
  queries = study.data.collection.queries
  held_out = np.random.default_rng(SEED).permutation(len(queries)) % 2 == 0
  rows_of: dict[str, set[int]] = {}
  for query in queries:
    rows_of.setdefault(query.text, set()).add(query.row)
  asked = [q for q, out in zip(queries, held_out, strict=True) if out]
  most = max(len(rows_of[q.text]) for q in asked)
  relevant = np.full((len(asked), most), -1)
  for place, query in enumerate(asked):
    found = sorted(rows_of[query.text])
    relevant[place, : len(found)] = found
  codes = [
    q.language for q, out in zip(queries, held_out, strict=True) if not out
  ]
  means = measure_means(study.data.queries[~held_out], codes)
  languages = [query.language for query in asked]
  curve = {}
  for strength in STRENGTHS:
    offsets = strength * means.select(languages)
    questions = (study.data.queries[held_out] - offsets).astype(np.float32)
    ranks = reciprocal_ranks(questions @ study.data.passages.T, relevant)
    curve[f"{strength:g}"] = average(ranks, languages)
  return {"chosen": max(curve, key=curve.get), "curve": curve}


def study_collection(
  collection: Collection, cache: Cache, banks: Banks
) -> dict[str, Any]:
  """All tables of one collection."""
  study = Study(Embedded.make(collection, cache))
  found = {
    "num_passages": len(collection.passages),
    "num_questions": len(collection.questions),
    "languages": sorted(set(study.data.languages)),
    "num_queries": len(collection.queries),
    "rows": compare(study, banks),
    "fixed": fix(study),
    "controls": control(study, banks),
    "bank_sizes": vary_banks(study),
  }
  if collection.can_augment:
    found["round_trips"] = choose_by_round_trips(study)
  return found


def main() -> None:
  """Runs the command line."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  for name in ("help_collections", "xquad_xor", "xor_tydi", "cache", "output"):
    parser.add_argument(f"--{name}", type=pathlib.Path, required=True)
  parser.add_argument("--xquad", type=pathlib.Path, help="public files")
  parser.add_argument("--checkpoint_path", type=pathlib.Path)
  parser.add_argument("--onnx", type=pathlib.Path, help="instead of it")
  args = parser.parse_args()
  path = args.onnx or args.checkpoint_path
  encoder = OnnxEncoder(path) if args.onnx else CheckpointEncoder(path)
  cache = Cache(encoder, args.cache)
  banks = Banks.make(cache, args.xor_tydi)
  xquad_xor = read_xquad_xor(args.xquad_xor)
  collections = [
    read_libreoffice(args.help_collections / "libreoffice"),
    read_gnome(args.help_collections / "gnome"),
    xquad_xor,
  ]
  if args.xquad:
    collections += [
      translate(xquad_xor, args.xquad, XQUAD_OTHERS, "XQuAD, eight others"),
      translate(xquad_xor, args.xquad, ("en",), "XQuAD en"),
    ]
  found = {}
  for collection in collections:
    found[collection.name] = study_collection(collection, cache, banks)
    write_json(args.output, {"encoder": encoder.name, "collections": found})
    print(collection.name, "done")


if __name__ == "__main__":
  main()
