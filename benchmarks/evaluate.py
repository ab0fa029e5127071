"""Seconds that `evaluate` takes for a large run, as JSON.

  python benchmarks/evaluate.py

Invents a collection, 2,000 questions in seven languages and rankings of 500
passages each, in which an answer stands at some rank or nowhere, and scores one
run: R@2kt, R@5kt, MRR@10, Success@20. Counted are all seconds of `evaluate`:
reading run and passages, tokenising, judging, tests, writing. Counts, too, how
often a text was tokenised.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import tempfile
import time
from collections.abc import Sequence

from xqg_jax.data.languages import XOR_TYDI_LANGUAGES
from xqg_jax.data.passages import Passage, write_passages
from xqg_jax.data.questions import Question, write_questions
from xqg_jax.data.runs import write_run
from xqg_jax.evaluation import scoring
from xqg_jax.evaluation.word_tokens import load_word_tokenizer
from xqg_jax.stages.evaluate import evaluate

WORDS_A_PASSAGE = 100
NUM_WORDS = 30_000


def make_passages(rng: random.Random, count: int) -> list[Passage]:
  """Passages of 100 invented words in sentences of a dozen."""
  letters = "aeioukstrnml"
  words = [
    "".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(NUM_WORDS)
  ]
  passages = []
  for number in range(count):
    chosen = rng.choices(words, k=WORDS_A_PASSAGE)
    for place in range(11, WORDS_A_PASSAGE, 12):
      chosen[place] += rng.choice((".", ",", "'s", " 5%.", ' "so"'))
    passages.append(Passage(f"p{number}", " ".join(chosen), f"Title {number}"))
  return passages


def make_rankings(
  rng: random.Random,
  passages: Sequence[Passage],
  *,
  num_questions: int,
  depth: int,
) -> tuple[list[Question], dict[str, dict[str, float]]]:
  """Questions with two words of a passage as answer, and their rankings."""
  questions, run = [], {}
  for number in range(num_questions):
    language = XOR_TYDI_LANGUAGES[number % len(XOR_TYDI_LANGUAGES)]
    ranked = rng.sample(passages, depth)
    # From the first rank to far below the 5,000th token.
    holder = ranked[int(depth ** rng.random()) - 1]
    answer = " ".join(holder.text.split()[30:32])
    name = f"q{number}"
    questions.append(Question(name, "?", language, (answer,)))
    run[name] = {p.passage_id: -float(r) for r, p in enumerate(ranked)}
  return questions, run


def measure(args: argparse.Namespace, folder: pathlib.Path) -> dict:
  """Writes the input, evaluates it, and tells what that took."""
  rng = random.Random(0)
  passages = make_passages(rng, args.passages)
  questions, run = make_rankings(
    rng, passages, num_questions=args.questions, depth=args.depth
  )
  with (folder / "passages.tsv").open("w") as file:
    write_passages(file, passages)
  with (folder / "questions.jsonl").open("w") as file:
    write_questions(file, questions)
  write_run(folder / "run.trec", run)
  counts: collections.Counter[str] = collections.Counter()

  def load_counting(*given: object, **options: object) -> object:
    tokenize = load_word_tokenizer(*given, **options)
    return lambda text: counts.update((text,)) or tokenize(text)

  scoring.load_word_tokenizer = load_counting
  started = time.perf_counter()
  evaluation = evaluate(
    runs={"run": folder / "run.trec"},
    questions=folder / "questions.jsonl",
    passages=folder / "passages.tsv",
    output_dir=folder / "scores",
    measures=("RR@10", "Success@20"),
    tokenizer=args.tokenizer,
  )
  seconds = time.perf_counter() - started
  return {
    "cores": os.cpu_count(),
    "questions": args.questions,
    "depth": args.depth,
    "passages": args.passages,
    "tokenizer": args.tokenizer,
    "seconds": round(seconds, 1),
    "texts_tokenised": len(counts),
    "most_often": max(counts.values()),
    "R@5kt": round(evaluation.result("run", "R@5kt")["value"], 1),
  }


def main(arguments: Sequence[str] | None = None) -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--questions", type=int, default=2000)
  parser.add_argument("--depth", type=int, default=500)
  parser.add_argument("--passages", type=int, default=200_000)
  parser.add_argument("--tokenizer", default="punkt")
  args = parser.parse_args(arguments)
  with tempfile.TemporaryDirectory() as folder:
    report = measure(args, pathlib.Path(folder))
  print(json.dumps(report, indent=2))


if __name__ == "__main__":
  main()
