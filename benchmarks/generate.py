"""Speed of query generation beside transformers and CTranslate2, as JSON.

  pip install ctranslate2 sentencepiece
  python benchmarks/generate.py --rounds 3

16 passages in 7 languages, 5 samples of 32 tokens each by top-k 10, with random
weights of mT5-small's shape. All programs are loaded, each in a process of its
own, then take turns; medians are printed. `per_cpu_s` is queries for each
second of processor time, which other work on the machine disturbs less than
`queries_per_s`. `stopping` lets queries end as the shipped small generator
does, with slots that refill and without.

Inputs are made on the spot, or taken from the folder XQG_BENCH_INPUTS:
`passages.tsv` (id, title, text), `queries.jsonl` (`question`, `lang`), and
`mt5`, a folder in Hugging Face's form with its tokenizer.
"""

import argparse
import contextlib
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from xqg_jax.data.languages import XOR_TYDI_LANGUAGES, get_languages
from xqg_jax.data.passages import Passage
from xqg_jax.text.prompts import make_prompt

NUM_PASSAGES, NUM_SAMPLES, NUM_TOKENS, TOP_K = 16, 5, 32, 10
MAX_INPUT_LENGTH = 256
PEER_BATCH = 16  # prompts at a time
VARIANTS = (
  "ours",
  "ours_restricted",
  "ours_bfloat16",
  "transformers_float32",
  "transformers_bfloat16",
  "ctranslate2_float32",
  "ctranslate2_int8",
)
STOPPING = ("stopping_refill", "stopping_wait")

Run = Callable[[], int]


# ---------------------------------------------------------------------- inputs


def make_inputs(folder: pathlib.Path) -> None:
  """Writes passages, questions and a random model of mT5-small's shape.

  A word is a token. Each language has 4,000 words of its own and shares 1,000
  with the others, about what some thousand real questions hold.
  """
  import tokenizers
  import torch
  import transformers

  draw = random.Random(0)
  words = [f"w{number}" for number in range(250_002 - 3)]
  backend = tokenizers.Tokenizer(
    tokenizers.models.WordLevel(
      {w: i for i, w in enumerate(["<pad>", "</s>", "<unk>", *words])}, "<unk>"
    )
  )
  backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  backend.post_processor = tokenizers.processors.TemplateProcessing(
    single="$A </s>", special_tokens=[("</s>", 1)]
  )
  torch.manual_seed(0)
  config = transformers.MT5Config(
    vocab_size=250_112,
    d_model=512,
    d_kv=64,
    num_heads=6,
    num_layers=8,
    num_decoder_layers=8,
    d_ff=1024,
    feed_forward_proj="gated-gelu",
    tie_word_embeddings=False,
    decoder_start_token_id=0,
    pad_token_id=0,
    eos_token_id=1,
  )
  model = transformers.MT5ForConditionalGeneration(config)
  model.save_pretrained(folder / "mt5")
  transformers.PreTrainedTokenizerFast(
    tokenizer_object=backend,
    pad_token="<pad>",
    eos_token="</s>",
    unk_token="<unk>",
  ).save_pretrained(folder / "mt5")
  with open(folder / "passages.tsv", "w") as file:
    for number in range(NUM_PASSAGES):
      text = " ".join(draw.choices(words[:50_000], k=draw.randint(90, 220)))
      file.write(f"p{number}\ttitle\t{text}\n")
  with open(folder / "queries.jsonl", "w") as file:
    for place, language in enumerate(XOR_TYDI_LANGUAGES):
      own = words[1000 + 4000 * place : 5000 + 4000 * place] + words[:1000]
      for start in range(0, len(own), 10):
        question = " ".join(own[start : start + 10])
        file.write(json.dumps({"question": question, "lang": language}) + "\n")


def read_passages(folder: pathlib.Path) -> list[Passage]:
  """The first passages of a folder of inputs."""
  lines = (folder / "passages.tsv").read_text("utf-8").splitlines()
  fields = [line.split("\t") for line in lines[:NUM_PASSAGES]]
  return [Passage(name, text, title) for name, title, text in fields]


def read_prompts(folder: pathlib.Path) -> list[str]:
  """The prompts of all passages in all languages."""
  return [
    make_prompt(passage, language)
    for passage in read_passages(folder)
    for language in get_languages(XOR_TYDI_LANGUAGES)
  ]


# ------------------------------------------------------------------------ ours


def _make_ours(
  folder: pathlib.Path, *, restricted: bool, dtype: str = "float32"
) -> Run:
  import dataclasses

  import numpy as np

  from xqg_jax.checkpoints import load_query_generator
  from xqg_jax.generation.decoding import Sampling
  from xqg_jax.generation.output_vocabulary import make_language_vocabularies
  from xqg_jax.generation.query_writer import QuerySettings
  from xqg_jax.generation.writers import t5

  generator = load_query_generator(folder / "mt5", dtype=dtype)
  languages, eos_id = get_languages(XOR_TYDI_LANGUAGES), generator.config.eos_id
  passages, vocabularies = read_passages(folder), None
  if restricted:
    found = make_language_vocabularies(
      generator.tokenizer,
      folder / "queries.jsonl",
      languages,
      vocab_size=generator.config.vocab_size,
    )
    vocabularies = {  # without the end token, as all 32 are to be written
      code: dataclasses.replace(
        table, token_ids=np.setdiff1d(table.token_ids, [eos_id])
      )
      for code, table in found.items()
    }
  make_mask = t5.make_vocabulary_mask

  def without_end(*arguments: Any) -> Any:
    mask = make_mask(*arguments)
    mask[eos_id] = False
    return mask

  t5.make_vocabulary_mask = without_end
  writer = t5.T5QueryWriter(
    generator,
    QuerySettings(
      languages=languages,
      num_queries=NUM_SAMPLES,
      sampling=Sampling(top_k=TOP_K),
      max_input_length=MAX_INPUT_LENGTH,
      max_query_length=NUM_TOKENS,
      seed=0,
      batch_size=len(passages) * len(languages),
    ),
    vocabularies=vocabularies,
  )

  def run() -> int:
    queries = writer.write(passages).queries
    return sum(len(q) for row in queries for q in row.values())

  return run


def _make_stopping(folder: pathlib.Path, *, refill: bool) -> Run:
  """The shipped generator on its own kind of passages, 200 of them."""
  del folder
  import itertools

  from xqg_jax.checkpoints import load_query_generator
  from xqg_jax.demo.pretraining import (
    PROMPT_LENGTH,
    QUESTION_LENGTH,
    SHIPPED_GENERATOR,
  )
  from xqg_jax.generation.decoding import Sampling
  from xqg_jax.generation.query_writer import QuerySettings
  from xqg_jax.generation.writers.t5 import T5QueryWriter
  from xqg_jax.xor_mini import iter_passages

  writer = T5QueryWriter(
    load_query_generator(SHIPPED_GENERATOR),
    QuerySettings(
      languages=get_languages(XOR_TYDI_LANGUAGES),
      num_queries=NUM_SAMPLES,
      sampling=Sampling(top_k=TOP_K),
      max_input_length=PROMPT_LENGTH,
      max_query_length=QUESTION_LENGTH,
      seed=0,
      batch_size=64,
    ),
    refill=refill,
  )
  passages = list(itertools.islice(iter_passages(200, seed=0), 200))

  def run() -> int:
    queries = writer.write(passages).queries
    return sum(len(q) for row in queries for q in row.values())

  return run


# ----------------------------------------------------------------------- peers


def _make_transformers(folder: pathlib.Path, *, dtype: str) -> Run:
  import torch
  import transformers

  torch.set_num_threads(os.cpu_count() or 1)
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "mt5")
  model = transformers.MT5ForConditionalGeneration.from_pretrained(
    folder / "mt5", dtype=getattr(torch, dtype)
  ).eval()
  ids = _tokenize(tokenizer, folder)

  def run() -> int:
    count = 0
    for start in range(0, len(ids), PEER_BATCH):
      some = {"input_ids": ids[start : start + PEER_BATCH]}
      batch = tokenizer.pad(some, padding=True, return_tensors="pt")
      with torch.no_grad():
        found = model.generate(
          **batch,
          do_sample=True,
          top_k=TOP_K,
          num_return_sequences=NUM_SAMPLES,
          min_new_tokens=NUM_TOKENS,
          max_new_tokens=NUM_TOKENS,
        )
      count += len(tokenizer.batch_decode(found, skip_special_tokens=True))
    return count

  return run


def _make_ctranslate2(folder: pathlib.Path, *, dtype: str) -> Run:
  import ctranslate2
  import transformers
  from ctranslate2.converters import TransformersConverter

  tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "mt5")
  ids = _tokenize(tokenizer, folder)
  with tempfile.TemporaryDirectory() as converted:
    TransformersConverter(str(folder / "mt5")).convert(converted, force=True)
    translator = ctranslate2.Translator(
      converted,
      device="cpu",
      compute_type=dtype,
      inter_threads=1,
      intra_threads=os.cpu_count() or 1,
    )

  def run() -> int:
    results = translator.translate_batch(
      [tokenizer.convert_ids_to_tokens(row) for row in ids],
      beam_size=1,
      num_hypotheses=NUM_SAMPLES,
      sampling_topk=TOP_K,
      min_decoding_length=NUM_TOKENS,
      max_decoding_length=NUM_TOKENS,
      max_batch_size=PEER_BATCH,
      batch_type="examples",
      max_input_length=MAX_INPUT_LENGTH,
    )
    rows = [
      tokenizer.convert_tokens_to_ids(hypothesis)
      for result in results
      for hypothesis in result.hypotheses
    ]
    return len(tokenizer.batch_decode(rows, skip_special_tokens=True))

  return run


def _tokenize(tokenizer: Any, folder: pathlib.Path) -> list[list[int]]:
  return tokenizer(
    read_prompts(folder), truncation=True, max_length=MAX_INPUT_LENGTH
  )["input_ids"]


# ---------------------------------------------------------------- taking turns


def make_run(variant: str, folder: pathlib.Path) -> Run:
  """Loads what one variant needs."""
  kind, _, detail = variant.partition("_")
  if kind == "ours":
    restricted = detail == "restricted"
    dtype = "bfloat16" if detail == "bfloat16" else "float32"
    return _make_ours(folder, restricted=restricted, dtype=dtype)
  if kind == "stopping":
    return _make_stopping(folder, refill=detail == "refill")
  make = {"transformers": _make_transformers, "ctranslate2": _make_ctranslate2}
  return make[kind](folder, dtype=detail)


def work(variant: str, folder: pathlib.Path) -> None:
  """Runs once for every line of standard input, and prints what it took."""
  run = make_run(variant, folder)
  if not variant.startswith(("transformers", "ctranslate2")):
    run()  # compiles
  print("ready", flush=True)
  for _ in sys.stdin:
    start, before = time.perf_counter(), time.process_time()
    count = run()
    row = {
      "queries": count,
      "wall_s": time.perf_counter() - start,
      "cpu_s": time.process_time() - before,
    }
    print(json.dumps(row), flush=True)


@contextlib.contextmanager
def start_worker(
  variant: str, folder: pathlib.Path
) -> Iterator[subprocess.Popen]:
  """A process that has loaded one variant and is ready to run."""
  command = [sys.executable, __file__, "--worker", variant]
  with subprocess.Popen(
    [*command, "--inputs", str(folder)],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    text=True,
  ) as process:
    for line in process.stdout:
      if line.strip() == "ready":
        break
    else:
      raise SystemExit(f"{variant} cannot run: python {__file__} --worker ...")
    yield process
    process.stdin.close()


def measure(
  variants: Sequence[str], folder: pathlib.Path, rounds: int
) -> dict[str, dict[str, Any]]:
  """Medians of every variant; they take turns."""
  found = {variant: [] for variant in variants}
  with contextlib.ExitStack() as stack:
    workers = {
      variant: stack.enter_context(start_worker(variant, folder))
      for variant in variants
    }
    for _ in range(rounds):
      for variant, worker in workers.items():
        worker.stdin.write("\n")
        worker.stdin.flush()
        found[variant].append(json.loads(worker.stdout.readline()))
  return {variant: _summarize(rows) for variant, rows in found.items()}


def _summarize(rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
  wall = statistics.median(row["wall_s"] for row in rows)
  cpu = statistics.median(row["cpu_s"] for row in rows)
  return {
    "queries": rows[0]["queries"],
    "queries_per_s": round(rows[0]["queries"] / wall, 2),
    "per_cpu_s": round(rows[0]["queries"] / cpu, 2),
    "wall_s": sorted(round(row["wall_s"], 1) for row in rows),
  }


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument(
    "--variants", nargs="+", default=[*VARIANTS, *STOPPING],
    choices=[*VARIANTS, *STOPPING],
  )  # fmt: skip
  parser.add_argument("--inputs", default=os.environ.get("XQG_BENCH_INPUTS"))
  parser.add_argument("--worker", help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  if arguments.worker:
    work(arguments.worker, pathlib.Path(arguments.inputs))
    return
  with tempfile.TemporaryDirectory() as made:
    folder = pathlib.Path(arguments.inputs or made)
    if not arguments.inputs:
      make_inputs(folder)
    results = measure(arguments.variants, folder, arguments.rounds)
  load = os.getloadavg() if hasattr(os, "getloadavg") else ()
  print(json.dumps({"load": load, "cores": os.cpu_count(), **results}))


if __name__ == "__main__":
  main()
