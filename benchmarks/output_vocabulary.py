"""What fewer output tokens do to speed, right script and chrF, as JSON.

  pip install -e '.[tasks]'
  python benchmarks/output_vocabulary.py

The shipped small generator writes queries for passages of a small collection
that it has not seen, with its whole vocabulary and with the tokens of the
training questions of each language, by turns. `chrf` is that of the queries
against the collection's own questions about the same passages.
"""

import argparse
import collections
import itertools
import json
import pathlib
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

from xqg_jax.checkpoints import load_query_generator
from xqg_jax.data.languages import XOR_TYDI_LANGUAGES, get_languages
from xqg_jax.data.passages import Passage, read_passages
from xqg_jax.data.qrels import read_qrels
from xqg_jax.data.questions import read_questions
from xqg_jax.demo.pretraining import (
  PROMPT_LENGTH,
  QUESTION_LENGTH,
  SHIPPED_GENERATOR,
)
from xqg_jax.generation.decoding import Sampling
from xqg_jax.generation.output_vocabulary import make_language_vocabularies
from xqg_jax.generation.query_writer import QuerySettings
from xqg_jax.generation.writers.t5 import T5QueryWriter
from xqg_jax.seqio_data.metrics import chrf, right_script
from xqg_jax.xor_mini import make_xor_mini

# passage id -> (language, question) pairs
References = Mapping[str, Sequence[tuple[str, str]]]


def read_references(folder: pathlib.Path) -> References:
  """The dev questions about each passage."""
  asked = {
    q.question_id: q for q in read_questions(folder / "questions_dev.jsonl")
  }
  found = collections.defaultdict(list)
  for question_id, passage_ids in read_qrels(folder / "qrels_dev.tsv").items():
    for passage_id in passage_ids:
      question = asked[question_id]
      found[passage_id].append((question.language, question.question))
  return found


def make_writers(texts: pathlib.Path) -> dict[str, T5QueryWriter]:
  """Writers with the whole vocabulary and with that of `texts`."""
  generator = load_query_generator(SHIPPED_GENERATOR)
  settings = QuerySettings(
    languages=get_languages(XOR_TYDI_LANGUAGES),
    num_queries=5,
    sampling=Sampling(top_k=10),
    max_input_length=PROMPT_LENGTH,
    max_query_length=QUESTION_LENGTH,
    seed=0,
    batch_size=64,
  )
  vocabularies = make_language_vocabularies(
    generator.tokenizer,
    texts,
    settings.languages,
    vocab_size=generator.config.vocab_size,
  )
  sizes = {code: len(table.token_ids) for code, table in vocabularies.items()}
  print(json.dumps({"tokens": sizes, "of": generator.tokenizer.vocab_size}))
  return {
    "whole": T5QueryWriter(generator, settings),
    "restricted": T5QueryWriter(generator, settings, vocabularies=vocabularies),
  }


def score(
  queries: Sequence[Mapping[str, Sequence[str]]],
  passages: Sequence[Passage],
  references: References,
) -> dict[str, float]:
  """Scores all queries that have a reference."""
  targets, found = [], []
  for passage, by_language in zip(passages, queries, strict=True):
    for language, question in references[passage.passage_id]:
      for query in by_language[language]:
        targets.append({"query": question, "language": language})
        found.append(query)
  scores = chrf(targets, found) | right_script(targets, found)
  return {name: round(value, 4) for name, value in scores.items()}


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--passages", type=int, default=200)
  arguments = parser.parse_args()
  with tempfile.TemporaryDirectory() as made:
    folder = pathlib.Path(made)
    make_xor_mini(output_dir=made, num_passages=1000, seed=7)
    references = read_references(folder)
    asked = (
      passage
      for passage in read_passages(folder / "passages.tsv")
      if passage.passage_id in references
    )
    passages = list(itertools.islice(asked, arguments.passages))
    writers = make_writers(folder / "train_pairs.jsonl")
  results = measure(writers, passages, references, arguments.rounds)
  print(json.dumps(results))


def measure(
  writers: Mapping[str, T5QueryWriter],
  passages: Sequence[Passage],
  references: References,
  rounds: int,
) -> dict[str, dict[str, Any]]:
  """Lets the writers take turns; the first round compiles."""
  queries, seconds = {}, collections.defaultdict(list)
  for _ in range(rounds + 1):
    for name, writer in writers.items():
      start = time.perf_counter()
      queries[name] = writer.write(passages).queries
      seconds[name].append(time.perf_counter() - start)
  count = len(passages) * len(XOR_TYDI_LANGUAGES) * 5
  return {
    name: {
      "queries_per_s": round(count / statistics.median(seconds[name][1:]), 1),
      **score(queries[name], passages, references),
    }
    for name in writers
  }


if __name__ == "__main__":
  main()
