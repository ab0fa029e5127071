"""The road from passages to found passages at a large number of passages.

  python benchmarks/encoding_scale.py --passages 1000000 --output scale

makes a `xor_mini` collection of that size with generated queries cut from the
passages, draws a one-layer encoder, and runs `xqg encode`, `augment`, `index`
(exact) and `search` on it. While they run, the memory of each is read from
/proc twice a second. It writes scale.json and scale.png: memory and passages
encoded over time, the rate of each tenth of the run, bytes on disk, and what
is found. The checks are that neither memory nor rate depends on how much is
done. Linux only.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

LANGUAGES = ("ar", "bn", "fi", "ja", "ko", "ru", "te")
QUERY_WORDS, DIM = 6, 64
SHARD_SIZE = 8192


def write_collection(folder: pathlib.Path, count: int) -> None:
  """Writes passages, dev questions and one query a language and passage."""
  from xqg_jax import make_xor_mini, read_passages

  make_xor_mini(
    output_dir=folder / "collection",
    num_passages=count,
    num_dev_questions_per_language=50,
    num_train_questions=100,
  )
  passages = folder / "collection" / "passages.tsv"
  with (folder / "queries.jsonl").open("w", encoding="utf-8") as file:
    for passage in read_passages(passages):
      words = passage.text.split()
      queries = {
        code: [" ".join(words[place : place + QUERY_WORDS])]
        for place, code in enumerate(LANGUAGES)
      }
      item = {"docid": passage.passage_id, "generated_queries": queries}
      file.write(json.dumps(item, ensure_ascii=False) + "\n")


def write_encoder(folder: pathlib.Path) -> None:
  """Writes an encoder of one layer with random weights."""
  import itertools

  import jax

  from xqg_jax import read_passages, read_questions
  from xqg_jax.checkpoints import save_model_files, save_params
  from xqg_jax.models.bert import BertConfig, BertEncoder
  from xqg_jax.models.dual_encoder import DualEncoderConfig, make_network
  from xqg_jax.models.parameters import init_params
  from xqg_jax.tokenizers import train_tokenizer

  collection = folder / "collection"
  some = itertools.islice(read_passages(collection / "passages.tsv"), 2000)
  texts = [passage.text for passage in some]
  asked = read_questions(collection / "questions_dev.jsonl")
  texts += [question.question for question in asked]
  config = BertConfig(
    vocab_size=4096,
    hidden_size=DIM,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=2 * DIM,
    max_position_embeddings=128,
  )
  dual = DualEncoderConfig(pooling="mean", normalize=True)
  network = make_network(BertEncoder(config), dual)
  save_model_files(
    folder / "model",
    model_config_hf=config.to_hf(),
    tokenizer=train_tokenizer(texts, vocab_size=4096, style="bert"),
    dual_encoder_config=dual,
  )
  save_params(folder / "model", 1, init_params(network, jax.random.key(0)))


def run_watched(
  arguments: list[str], store: pathlib.Path | None = None
) -> dict[str, Any]:
  """Runs `xqg` and samples its memory, and the shards there are in a store."""
  command = [sys.executable, "-m", "xqg_jax.cli", *arguments]
  begun, samples = time.perf_counter(), []
  with tempfile.TemporaryFile("w+") as log:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
    while process.poll() is None:
      shards = len(list(store.glob("shard-*"))) if store else 0
      now = time.perf_counter() - begun
      samples.append((now, _read_mb(process.pid), shards))
      time.sleep(0.5)
    log.seek(0)
    told = log.read()
  if process.returncode:
    raise RuntimeError(f"{arguments[0]} failed: {told[-2000:]}")
  seconds = time.perf_counter() - begun
  return {
    "seconds": seconds,
    "peak_mb": max(mb for _, mb, _ in samples),
    "samples": samples,
    "said": [line for line in told.splitlines() if "idle" in line][-1:],
  }


def _read_mb(pid: int) -> float:
  try:
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
  except (FileNotFoundError, ProcessLookupError):
    return 0.0
  found = re.search(r"VmRSS:\s+(\d+) kB", status)
  return int(found[1]) / 1024 if found else 0.0


def run_road(folder: pathlib.Path, count: int) -> dict[str, Any]:
  """All stages, one after the other."""
  collection, store = folder / "collection", folder / "store"
  begun = time.perf_counter()
  write_collection(folder, count)
  write_encoder(folder)
  stages = {"prepare": {"seconds": time.perf_counter() - begun}}
  roads = {
    "encode": {
      "CHECKPOINT_PATH": folder / "model",
      "PASSAGES": collection / "passages.tsv",
      "GENERATED_QUERIES": folder / "queries.jsonl",
      "DTYPE": "bfloat16",
      "SHARD_SIZE": SHARD_SIZE,
      "OUTPUT_DIR": store,
    },
    "augment": {"STORE": store, "ALPHA": 0.1, "OUTPUT_DIR": folder / "view"},
    "index": {
      "EMBEDDINGS": folder / "view",
      "INDEX_KIND": "exact",
      "OUTPUT_DIR": folder / "index",
    },
    "search": {
      "INDEX": folder / "index",
      "QUESTIONS": collection / "questions_dev.jsonl",
      "CHECKPOINT_PATH": folder / "model",
      "OUTPUT_DIR": folder / "found",
    },
  }
  for stage, settings in roads.items():
    flags = [f"--gin.{name}={value}" for name, value in settings.items()]
    watched = store if stage == "encode" else None
    stages[stage] = run_watched([stage, *flags], watched)
  return stages


def describe(
  folder: pathlib.Path, count: int, stages: dict[str, Any]
) -> dict[str, Any]:
  """What the run shows: rates by tenth, memory by half, bytes."""
  samples = np.array(stages["encode"].pop("samples"))
  for stage in ("augment", "index", "search"):
    del stages[stage]["samples"]
  at, memory, shards = samples.T
  done = np.minimum(shards * SHARD_SIZE, count)
  begun = int(np.argmax(shards > 0))
  marks = np.linspace(done[begun], done[-1], 11)
  times = np.interp(marks, done[begun:], at[begun:])
  size = sum(
    f.stat().st_size for f in (folder / "store").rglob("*") if f.is_file()
  )
  half = (begun + len(at)) // 2
  return {
    "passages": count,
    "queries": count * len(LANGUAGES),
    "stages": stages,
    "store_bytes_per_passage": size / count,
    "rate_by_tenth": (np.diff(marks) / np.diff(times)).round().tolist(),
    "memory_mb": {
      "first_half": float(memory[begun:half].max()),
      "second_half": float(memory[half:].max()),
    },
    "curve": samples.round(1).tolist(),
  }


def plot(result: dict[str, Any], path: pathlib.Path) -> None:
  """Memory and passages over time."""
  import matplotlib

  matplotlib.use("Agg")
  import matplotlib.pyplot as plt

  at, memory, shards = np.array(result["curve"]).T
  figure, left = plt.subplots(figsize=(7, 3.5), layout="constrained")
  left.plot(at, memory, color="tab:red")
  left.set(xlabel="seconds", ylabel="resident memory, MB", ylim=(0, None))
  right = left.twinx()
  done = np.minimum(shards * SHARD_SIZE, result["passages"])
  right.plot(at, done, color="tab:blue")
  right.set(ylabel="passages encoded", ylim=(0, None))
  left.set_title(f"xqg encode, {result['passages']:,} passages (memory: red)")
  figure.savefig(path, dpi=120)


def main() -> None:
  """Runs the road and writes what was seen."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--passages", type=int, default=1_000_000)
  parser.add_argument("--output", type=pathlib.Path, default="scale")
  arguments = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder)
    stages = run_road(path, arguments.passages)
    result = describe(path, arguments.passages, stages)
  plot(result, arguments.output.with_suffix(".png"))
  text = json.dumps(result, indent=2)
  arguments.output.with_suffix(".json").write_text(text)
  del result["curve"]
  print(json.dumps(result, indent=2))


if __name__ == "__main__":
  main()
