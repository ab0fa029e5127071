"""Encoding passages and questions: ours beside the programs that do the same.

  python benchmarks/encode.py

draws a model of multilingual-e5-small's shape, 2,000 passages and 10,000
questions (128 and 32 tokens at most) and encodes them, tokenisation included,
by Tevatron's way (transformers, padded), sentence-transformers, ONNX Runtime
(where `onnxruntime` and `onnx` are installed) and ours, each in a process of
its own, in turn. It prints JSON: examples a second, examples a second of
processor time by core (which tells less of what else the machine does), ours
divided by each, and the smallest cosine with the first variant's vectors. What
each run took is printed at once to stderr. XQG_BENCH_INPUTS may name a folder
with other inputs (`encoding_inputs.py`). Linux only: memory is read from /proc.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from encoding_inputs import LENGTHS, read_texts, write_inputs
from encoding_peers import make_peer

REFERENCE = "tevatron_float32"
VARIANTS = (
  REFERENCE,
  "sentence_transformers_float32",
  "sentence_transformers_bfloat16",
  "onnx_float32",
  "onnx_int8",
  "ours_float32",
  "ours_bfloat16",
)
WARM_UP = 128
NOTE = (
  "torch's float32 products use no AVX512 on AMD: the advantage over "
  "tevatron_float32 and sentence_transformers_float32 is in part one of the "
  "BLAS; onnx_float32 is the like-for-like peer"
)


def measure(
  folder: pathlib.Path, variant: str, jobs: Mapping[str, int]
) -> dict[str, Any]:
  """Encodes each job's texts once, after a warm-up; keeps the vectors."""
  peer = make_peer(folder / "bert", variant)
  seconds, cpu_seconds = {}, {}
  for job, count in jobs.items():
    texts, length = read_texts(folder, job, count), LENGTHS[job]
    # Ours is compiled for the number of texts and the lengths of their rows.
    is_ours = variant.startswith("ours")
    peer.embed(texts if is_ours else texts[:WARM_UP], length)
    start, cpu_start = time.perf_counter(), time.process_time()
    vectors = peer.embed(texts, length)
    seconds[job] = time.perf_counter() - start
    cpu_seconds[job] = time.process_time() - cpu_start
    np.save(folder / f"{variant}-{job}.npy", vectors)
  status = pathlib.Path("/proc/self/status").read_text()
  peak = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024
  return {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mb": peak}


def run_process(
  folder: pathlib.Path, variant: str, jobs: Mapping[str, int]
) -> Any:
  """Runs `measure` in a process of its own."""
  command = [sys.executable, __file__, "--measure", variant, str(folder)]
  done = subprocess.run(
    [*command, json.dumps(jobs)],
    stdout=subprocess.PIPE,
    check=True,
    text=True,
  )
  found = json.loads(done.stdout.splitlines()[-1])
  print(json.dumps({variant: found}), file=sys.stderr, flush=True)
  return found


def compare(
  folder: pathlib.Path, variants: Sequence[str], job: str
) -> dict[str, dict[str, float]]:
  """By variant the smallest cosine with the first variant's vectors."""
  expected = np.load(folder / f"{variants[0]}-{job}.npy")
  found = {}
  for variant in variants[1:]:
    vectors = np.load(folder / f"{variant}-{job}.npy")
    norms = [np.linalg.norm(x, axis=1) for x in (vectors, expected)]
    cosines = (vectors * expected).sum(axis=1) / np.prod(norms, axis=0)
    found[variant] = {
      "smallest_cosine": float(cosines.min()),
      "mean_cosine": float(cosines.mean()),
      "largest_difference": float(np.abs(vectors - expected).max()),
    }
  return found


def run_all(
  folder: pathlib.Path, arguments: argparse.Namespace
) -> dict[str, Any]:
  """Measures all variants, in turn."""
  write_inputs(folder)
  counts = {"passages": arguments.passages, "questions": arguments.questions}
  jobs = {job: count for job, count in counts.items() if count}
  variants = [v for v in arguments.variants if can_run(v)]
  runs: dict[str, list[Any]] = {variant: [] for variant in variants}
  loads = []
  for _ in range(arguments.rounds):
    for variant in variants:
      loads.append(os.getloadavg()[0])
      runs[variant].append(run_process(folder, variant, jobs))
  rates = get_rates(runs, jobs, "seconds")
  return {
    "counts": jobs,
    "cores": os.cpu_count(),
    "load_before_each": loads,
    "examples_per_s": rates,
    "examples_per_core_s": get_rates(runs, jobs, "cpu_seconds"),
    "ratios": {job: divide(by_variant) for job, by_variant in rates.items()},
    "against_first": {job: compare(folder, variants, job) for job in jobs},
    "peak_mb": {v: max(r["peak_mb"] for r in runs[v]) for v in variants},
    "note": NOTE,
  }


def get_rates(
  runs: Mapping[str, Sequence[Any]], jobs: Mapping[str, int], clock: str
) -> dict[str, dict[str, float]]:
  """By job and variant the examples a second of a clock, the median run's."""
  return {
    job: {
      variant: count / statistics.median(run[clock][job] for run in some)
      for variant, some in runs.items()
    }
    for job, count in jobs.items()
  }


def can_run(variant: str) -> bool:
  """Whether what the variant needs is installed; says so if it is not."""
  needed = ("onnx", "onnxruntime") if variant.startswith("onnx") else ()
  missing = [name for name in needed if not importlib.util.find_spec(name)]
  if missing:
    packages = " and ".join(missing)
    print(f"{variant} is left out: it needs {packages}", file=sys.stderr)
  return not missing


def divide(rates: Mapping[str, float]) -> dict[str, float]:
  """Ours divided by each of the others."""
  return {
    f"{ours}/{peer}": rates[ours] / rates[peer]
    for ours in rates
    for peer in rates
    if ours.startswith("ours") and not peer.startswith("ours")
  }


def main() -> None:
  """Runs the benchmark and prints it."""
  parser = argparse.ArgumentParser(description=__doc__)
  for name, default in {"passages": 2000, "questions": 10_000}.items():
    parser.add_argument(
      f"--{name}", type=int, default=default, help="0 leaves them out"
    )
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument(
    "--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS)
  )
  parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  if arguments.measure:
    variant, folder, jobs = arguments.measure
    print(json.dumps(measure(pathlib.Path(folder), variant, json.loads(jobs))))
    return
  with tempfile.TemporaryDirectory() as folder:
    print(json.dumps(run_all(pathlib.Path(folder), arguments), indent=2))


if __name__ == "__main__":
  main()
