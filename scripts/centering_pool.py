"""A pool of passages in many languages: questions and passages centred.

  python scripts/centering_pool.py --checkpoint_path=e5-small --xquad=xquad \
    --cache=vectors --output=centering_pool.json

XQuAD's paragraphs in eleven languages; relevant are all translations of the
paragraph that was asked about, as in LAReQA (Roy et al., EMNLP 2020). Means of
questions are of the other half of the articles.
"""

import argparse
import pathlib
from collections.abc import Sequence
from typing import Any

import centering_baselines as baselines
import numpy as np
from centering_collections import Pool, read_pool
from centering_vectors import Cache, CheckpointEncoder, OnnxEncoder
from jaxtyping import Float

from xqg_jax.augmentation.language_means import LanguageMeans, measure_means
from xqg_jax.data.passages import Passage
from xqg_jax.evaluation.comparison import Scores, compare_variants
from xqg_jax.io.files import write_json

MEASURE, ROUNDS, SEED = "AP", 10_000, 0
STRENGTH = 1.0
LIR_RANK = 1

Vectors = Float[np.ndarray, "texts dim"]


def average_precision(
  scores: Float[np.ndarray, "questions passages"],
  paragraphs: Sequence[int],
  num_paragraphs: int,
) -> Float[np.ndarray, " questions"]:
  """Average precision where every translation of a paragraph is relevant.

  >>> scores = np.array([[0.9, 0.1, 0.5, 0.8]])  # 2 paragraphs, 2 languages
  >>> average_precision(scores, [0], 2)
  array([0.83333333])
  """
  order = np.argsort(-scores, axis=1, kind="stable")
  is_hit = order % num_paragraphs == np.asarray(paragraphs)[:, None]
  ranks = np.arange(1, scores.shape[1] + 1)
  precision = np.cumsum(is_hit, axis=1) / ranks
  return (precision * is_hit).sum(axis=1) / is_hit.sum(axis=1)


def measure_by_half(
  questions: Vectors, languages: Sequence[str], halves: np.ndarray
) -> list[LanguageMeans]:
  """For each half of the questions, the means of the other half."""
  codes = np.array(languages)
  return [
    measure_means(questions[halves != half], codes[halves != half].tolist())
    for half in (0, 1)
  ]


def center_questions(
  questions: Vectors,
  languages: Sequence[str],
  halves: np.ndarray,
  means: Sequence[LanguageMeans],
) -> Vectors:
  """Each question without its language's mean, of the other half."""
  codes, found = np.array(languages), np.array(questions, np.float64)
  for half, of_others in enumerate(means):
    rows = halves == half
    offsets = of_others.select(codes[rows].tolist())
    found[rows] -= STRENGTH * offsets
  return found.astype(np.float32)


def make_variants(
  pool: Pool, questions: Vectors, passages: Vectors, halves: np.ndarray
) -> dict[str, tuple[Vectors, Vectors]]:
  """Questions and passages of each way to take the language out."""
  asked = [q.language for q in pool.questions]
  means = measure_by_half(questions, asked, halves)
  centred = center_questions(questions, asked, halves, means)
  of_passages = measure_means(passages, pool.passage_languages)
  mean_of_each = of_passages.select(pool.passage_languages)
  # What a language adds to the mean of all: SHIFT, without parallel text.
  shifted = passages - (mean_of_each - of_passages.overall)
  bare = baselines.normalize(passages - mean_of_each)
  codes = np.array(asked)
  bank = {c: questions[codes == c] for c in sorted(set(asked))}
  found = {
    "base": (questions, passages),
    "questions centred": (centred, passages),
    "passages' offsets removed": (questions, shifted),
    "both": (centred, shifted),
    "both, passages wholly centred, unit vectors": (centred, bare),
    "LIR": (
      baselines.remove_language_components(
        questions, asked, bank, rank=LIR_RANK
      ),
      baselines.remove_language_components(
        passages,
        pool.passage_languages,
        {
          c: passages[np.array(pool.passage_languages) == c]
          for c in sorted(set(asked))
        },
        rank=LIR_RANK,
      ),
    ),
  }
  sample = np.concatenate([questions, passages])
  for name, project in (("subtracted", False), ("projected off", True)):
    found[f"one mean of everything {name}"] = baselines.remove_mean_of_all(
      questions, passages, sample, project=project
    )
  return {name: tuple(map(np.float32, pair)) for name, pair in found.items()}


def study(pool: Pool, cache: Cache) -> dict[str, Any]:
  """Mean average precision, and in what language the first hit is."""
  passages = cache.passages(
    [
      Passage(str(i), text, title)
      for i, (title, text) in enumerate(pool.passages)
    ]
  )
  questions = cache.queries([q.question for q in pool.questions])
  titles = [pool.passages[p][0] for p in pool.paragraphs]
  articles = {title: i for i, title in enumerate(sorted(set(titles)))}
  halves = np.array([articles[title] % 2 for title in titles])
  asked = np.array([q.language for q in pool.questions])
  of_row = np.array(pool.passage_languages)
  values, own = {}, {}
  variants = make_variants(pool, questions, passages, halves)
  for name, (some, others) in variants.items():
    scores = some @ others.T
    values[name] = average_precision(
      scores, pool.paragraphs, pool.num_paragraphs
    )[:, None]
    own[name] = 100 * float((of_row[scores.argmax(axis=1)] == asked).mean())
  scores = Scores(
    tuple(q.question_id for q in pool.questions),
    tuple(asked.tolist()),
    (MEASURE,),
    values,
  )
  compared = compare_variants(scores, baseline="base", rounds=ROUNDS, seed=SEED)
  return {
    "num_passages": len(passages),
    "num_questions": len(questions),
    "rows": {
      name: {**entry[MEASURE]["macro"], "first_hit_in_own_language": own[name]}
      for name, entry in compared.items()
    },
  }


def main() -> None:
  """Runs the command line."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  for name in ("xquad", "cache", "output"):
    parser.add_argument(f"--{name}", type=pathlib.Path, required=True)
  parser.add_argument("--checkpoint_path", type=pathlib.Path)
  parser.add_argument("--onnx", type=pathlib.Path, help="instead of it")
  args = parser.parse_args()
  encoder = (
    OnnxEncoder(args.onnx)
    if args.onnx
    else CheckpointEncoder(args.checkpoint_path)
  )
  found = study(read_pool(args.xquad), Cache(encoder, args.cache))
  write_json(args.output, {"encoder": encoder.name, **found})


if __name__ == "__main__":
  main()
