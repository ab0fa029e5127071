"""Augmentation as it was published beside one pass that keeps sums only.

  python benchmarks/augment.py

encodes 300 passages with 35 generated queries each by a model of
multilingual-e5-small's shape and adds the queries' vectors to the passages'.
The published way encodes the passages, makes one pass for each language and
number of query, padded to 32 tokens (transformers, float32), writes a pickle of
vectors each, and then reads and fuses them into another. Ours encodes all of it
packed, adds vectors up while it encodes, and writes one store; the augmented
vectors are a view. `ours_COMPUTE_DISK` names the dtype of the products and that
of the vectors on disk. JSON is printed: seconds, bytes written, ratios, and the
largest difference between the augmented vectors, also where each is divided by
the length of the published vector. `times_faster_for_queries` compares what the
queries add: the published passes and fusion, once the model is loaded and the
passages are encoded, beside our time less that of `xqg encode` without queries.
XQG_BENCH_INPUTS may name a folder with other inputs (`encoding_inputs.py`).
"""

import argparse
import json
import os
import pathlib
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from encoding_inputs import (
  LANGUAGES,
  QUERIES_PER_LANGUAGE,
  read_generated_queries,
  read_texts,
  write_inputs,
)
from encoding_peers import Tevatron

VARIANTS = (
  "published",
  "ours_float32_float32",
  "ours_float32_float16",
  "ours_bfloat16_bfloat16",
)
ALPHA = 0.01
WARM_UP = 64


def run_published(folder: pathlib.Path, count: int) -> dict[str, Any]:
  """35 passes, a pickle each, then the fusion of what they hold."""
  items = read_generated_queries(folder, count)
  texts = read_texts(folder, "passages", count)
  ids = [f"p{number}" for number in range(count)]
  warm = Tevatron(folder / "bert", "float32")
  warm.embed(items[0]["ar"] * (WARM_UP // QUERIES_PER_LANGUAGE), 32)
  del warm
  out = folder / "published"
  shutil.rmtree(out, ignore_errors=True)
  out.mkdir()
  begun = time.perf_counter()
  model = Tevatron(folder / "bert", "float32")  # ours is loaded in time, too
  passages = model.embed(texts, 128)
  start = time.perf_counter()
  with (out / "corpus.pkl").open("wb") as file:
    pickle.dump((passages, ids), file)
  for number in range(QUERIES_PER_LANGUAGE):
    for code in LANGUAGES:
      vectors = model.embed([item[code][number] for item in items], 32)
      with (out / f"queries_{code}_{number}.pkl").open("wb") as file:
        pickle.dump((vectors, ids), file)
  total = np.zeros_like(passages)
  for path in sorted(out.glob("queries_*.pkl")):
    with path.open("rb") as file:
      total += pickle.load(file)[0]
  fused = (1 - ALPHA) * passages + ALPHA * total
  with (out / "augmented.pkl").open("wb") as file:
    pickle.dump((fused, ids), file)
  ended = time.perf_counter()
  np.save(folder / "augmented-published.npy", fused)
  times = {"seconds": ended - begun, "queries_s": ended - start}
  return times | _measure(out)


def run_ours(folder: pathlib.Path, variant: str, count: int) -> dict[str, Any]:
  """`xqg encode`, then `xqg augment`."""
  from xqg_jax import augment, encode
  from xqg_jax.models.dual_encoder.config import DualEncoderConfig

  del count  # stands in the files
  _, compute_dtype, dtype = variant.split("_")
  config = DualEncoderConfig(pooling="cls", normalize=False)
  settings = {
    "checkpoint_path": folder / "bert",
    "passages": folder / "some_passages.tsv",
    "encoder": config,
    "compute_dtype": compute_dtype,
    "dtype": dtype,
  }
  out = folder / variant
  shutil.rmtree(out, ignore_errors=True)
  queries = {"generated_queries": folder / "some_queries.jsonl"}
  for number, more in enumerate((queries, {})):  # compiles all there is
    encode(**settings, **more, output_dir=out / f"warm_up_{number}")
  shutil.rmtree(out)
  start = time.perf_counter()
  store = encode(**settings, **queries, output_dir=out / "store")
  view = augment(store=store.path, output_dir=out / "view", alpha=ALPHA)
  ((_, vectors),) = view.blocks(store.num_passages)
  ended = time.perf_counter()
  written = _measure(out)
  encode(**settings, output_dir=out / "alone")
  alone = time.perf_counter() - ended
  np.save(folder / f"augmented-{variant}.npy", vectors)
  times = {"seconds": ended - start, "queries_s": ended - start - alone}
  return times | written


def _measure(folder: pathlib.Path) -> dict[str, int]:
  files = [path for path in folder.rglob("*") if path.is_file()]
  return {"bytes": sum(f.stat().st_size for f in files), "files": len(files)}


def measure(folder: pathlib.Path, variant: str, count: int) -> dict[str, Any]:
  """One variant, once."""
  if variant == "published":
    return run_published(folder, count)
  return run_ours(folder, variant, count)


def write_parts(folder: pathlib.Path, count: int) -> None:
  """Writes the passages and queries that are used."""
  texts = read_texts(folder, "passages", count)
  items = read_generated_queries(folder, count)
  with (folder / "some_passages.tsv").open("w") as file:
    for number, text in enumerate(texts):
      file.write(f"p{number}\t{text}\t\n")
  with (folder / "some_queries.jsonl").open("w") as file:
    for number, item in enumerate(items):
      row = {"docid": f"p{number}", "generated_queries": item}
      file.write(json.dumps(row, ensure_ascii=False) + "\n")


def run_process(folder: pathlib.Path, task: str, count: int) -> Any:
  """Runs a task in a process of its own."""
  command = [sys.executable, __file__, "--task", task, str(folder), str(count)]
  done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
  found = json.loads(done.stdout.splitlines()[-1])
  print(json.dumps({task: found}), file=sys.stderr, flush=True)
  return found


def run_all(
  folder: pathlib.Path, arguments: argparse.Namespace
) -> dict[str, Any]:
  """Measures all variants, in turn, and takes the fastest run of each."""
  count = arguments.passages
  write_inputs(folder)
  write_parts(folder, count)
  variants = arguments.variants
  runs: dict[str, Any] = {variant: [] for variant in variants}
  loads = []
  for _ in range(arguments.rounds):
    for variant in variants:
      loads.append(os.getloadavg()[0])
      runs[variant].append(run_process(folder, variant, count))
  best = {v: min(r, key=lambda run: run["seconds"]) for v, r in runs.items()}
  expected = np.load(folder / "augmented-published.npy")
  return {
    "passages": count,
    "queries": count * len(LANGUAGES) * QUERIES_PER_LANGUAGE,
    "cores": os.cpu_count(),
    "load_before_each": loads,
    "variants": best,
    "against_published": {
      variant: _compare(best, variant, folder, expected)
      for variant in variants
      if variant != "published"
    },
  }


def _compare(
  best: Mapping[str, Any],
  variant: str,
  folder: pathlib.Path,
  expected: np.ndarray,
) -> dict[str, float]:
  vectors = np.load(folder / f"augmented-{variant}.npy")
  published, ours = best["published"], best[variant]
  difference = np.abs(vectors - expected)
  length = np.linalg.norm(expected, axis=1, keepdims=True)
  return {
    "times_faster": published["seconds"] / ours["seconds"],
    "times_faster_for_queries": published["queries_s"] / ours["queries_s"],
    "times_fewer_bytes": published["bytes"] / ours["bytes"],
    "largest_difference": float(difference.max()),
    "largest_difference_of_unit_vectors": float((difference / length).max()),
  }


def main() -> None:
  """Runs the benchmark and prints it."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--passages", type=int, default=300)
  parser.add_argument("--rounds", type=int, default=1)
  parser.add_argument(
    "--variants",
    nargs="+",
    choices=VARIANTS,
    default=list(VARIANTS),
    help="`published` must be among them",
  )
  parser.add_argument("--task", nargs=3, help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  if arguments.task:
    task, folder, count = arguments.task
    path = pathlib.Path(folder)
    print(json.dumps(measure(path, task, int(count))))
    return
  with tempfile.TemporaryDirectory() as folder:
    print(json.dumps(run_all(pathlib.Path(folder), arguments), indent=2))


if __name__ == "__main__":
  main()
