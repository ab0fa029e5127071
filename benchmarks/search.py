"""Search by our ScaNN index and our exact search beside FAISS, as JSON.

  python benchmarks/search.py

draws 200,000 vectors of 384 dimensions from 2,000 clusters, with a spectrum
that falls as those of text encoders do, and 2,000 queries of the same kind:
half to tune with, half to measure with. FAISS flat, FAISS HNSW, our ScaNN index
and our exact search find the best 100 for each, in processes of their own, in
turn. An index is built once a process and then tuned to each index recall:
HNSW over a list of efSearch, by time, ours by `xqg index`'s own search.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

VARIANTS = ("faiss_flat", "faiss_hnsw", "ours_scann", "ours_exact")
TARGETS = (0.95, 0.99)
K = 100
HNSW_LINKS, HNSW_BUILD = 32, 100
HNSW_SEARCH = (100, 150, 200, 250, 300, 400, 500, 600, 800, 1200)
CLUSTERS, SPREAD = 2000, 0.8

Search = Callable[[np.ndarray], np.ndarray]


# --------------------------------------------------------------------- inputs


def write_inputs(folder: pathlib.Path, arguments: argparse.Namespace) -> None:
  """Writes corpus and queries, and the exact neighbors of the queries."""
  draw = make_drawer(arguments.dim)
  corpus = draw(arguments.passages)
  np.save(folder / "corpus.npy", corpus)
  for name in ("tuning", "queries"):
    queries = draw(arguments.queries)
    np.save(folder / f"{name}.npy", queries)
    np.save(folder / f"{name}_exact.npy", find_exact(queries, corpus))


def make_drawer(dim: int) -> Callable[[int], np.ndarray]:
  """Draws unit vectors from clusters of uneven sizes.

  The variance of the i-th axis falls as 1 / i, and the axes are rotated.
  """
  rng = np.random.default_rng(0)
  deviations = np.arange(1, dim + 1) ** -0.5
  deviations /= np.linalg.norm(deviations)
  rotation = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
  centres = rng.standard_normal((CLUSTERS, dim)) * deviations
  shares = np.arange(1, CLUSTERS + 1) ** -0.5
  shares /= shares.sum()

  def draw(count: int) -> np.ndarray:
    found = centres[rng.choice(CLUSTERS, count, p=shares)]
    found += SPREAD * rng.standard_normal((count, dim)) * deviations
    found = found @ rotation
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found.astype(np.float32)

  return draw


def find_exact(queries: np.ndarray, corpus: np.ndarray) -> np.ndarray:
  """Rows of the best K by numpy, best first."""
  scores = queries @ corpus.T
  best = np.argpartition(-scores, K, axis=1)[:, :K]
  order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1)
  return np.take_along_axis(best, order, axis=1).astype(np.int32)


def measure_recall(found: np.ndarray, exact: np.ndarray) -> float:
  """Share of the exact neighbors that were found."""
  return float((found[:, :, None] == exact[:, None, :]).any(-1).mean())


# ------------------------------------------------------------------- searches


def list_faiss_flat(
  folder: pathlib.Path,
) -> tuple[dict[str, float], dict[str, Search]]:
  """FAISS's full search."""
  import faiss

  faiss.omp_set_num_threads(os.cpu_count())
  corpus = np.load(folder / "corpus.npy")
  start = time.perf_counter()
  index = faiss.IndexFlatIP(corpus.shape[1])
  index.add(corpus)
  built = describe_faiss(folder, index, start)
  return built, {"exact": lambda queries: index.search(queries, K)[1]}


def list_faiss_hnsw(
  folder: pathlib.Path,
) -> tuple[dict[str, float], dict[str, Search]]:
  """FAISS's HNSW, at the quickest efSearch that reaches each recall."""
  import faiss

  faiss.omp_set_num_threads(os.cpu_count())
  corpus = np.load(folder / "corpus.npy")
  start = time.perf_counter()
  index = faiss.IndexHNSWFlat(
    corpus.shape[1], HNSW_LINKS, faiss.METRIC_INNER_PRODUCT
  )
  index.hnsw.efConstruction = HNSW_BUILD
  index.add(corpus)
  built = describe_faiss(folder, index, start)

  def search(queries: np.ndarray, ef: int) -> np.ndarray:
    index.hnsw.efSearch = ef
    return index.search(queries, K)[1]

  queries, exact = (
    np.load(folder / f"{name}.npy") for name in ("tuning", "tuning_exact")
  )
  # More candidates never find less, and always take longer.
  recalls = {
    ef: measure_recall(search(queries, ef), exact) for ef in HNSW_SEARCH
  }
  return built, {
    str(target): lambda queries, ef=ef: search(queries, ef)
    for target in TARGETS
    for ef in [next(e for e in HNSW_SEARCH if recalls[e] >= target)]
  }


def describe_faiss(
  folder: pathlib.Path, index: Any, start: float
) -> dict[str, float]:
  """Seconds since the start of the build, and bytes on disk."""
  import faiss

  seconds = time.perf_counter() - start
  faiss.write_index(index, str(folder / "faiss"))
  size = (folder / "faiss").stat().st_size
  (folder / "faiss").unlink()
  return {"build_s": seconds, "bytes": size}


def list_ours_scann(
  folder: pathlib.Path,
) -> tuple[dict[str, float], dict[str, Search]]:
  """Our ScaNN index, tuned to each recall as `xqg index` does it."""
  from xqg_jax.indexes.exact.search import search_exact
  from xqg_jax.indexes.scann.index import ScannIndex
  from xqg_jax.indexes.scann.tuning import tune_parameters

  start = time.perf_counter()
  index = ScannIndex.build(folder / "corpus.npy")
  built = {"build_s": time.perf_counter() - start}
  index.save(folder / "scann")
  built["bytes"] = sum(p.stat().st_size for p in (folder / "scann").iterdir())
  queries = np.load(folder / "tuning.npy")
  exact = search_exact(queries, [(0, np.load(folder / "corpus.npy"))], K)
  searches = {}
  for target in TARGETS:
    start = time.perf_counter()
    found = tune_parameters(index, queries, exact, target_index_recall=target)
    built[f"tuning_s_{target}"] = time.perf_counter() - start
    built[f"leaves_{target}"] = found.num_leaves_to_search
    built[f"reordered_{target}"] = found.num_reordered
    searches[str(target)] = lambda queries, found=found: index.search(
      queries,
      K,
      num_leaves_to_search=found.num_leaves_to_search,
      num_reordered=found.num_reordered,
    )[1]
  return built, searches


def list_ours_exact(
  folder: pathlib.Path,
) -> tuple[dict[str, float], dict[str, Search]]:
  """Our exact search, streamed over blocks of the corpus."""
  from xqg_jax.cli.process import keep_freed_memory
  from xqg_jax.indexes.exact.search import BLOCK_SIZE, search_exact

  keep_freed_memory()  # as the command line does
  corpus = np.load(folder / "corpus.npy")
  blocks = [
    (start, corpus[start : start + BLOCK_SIZE])
    for start in range(0, len(corpus), BLOCK_SIZE)
  ]
  built = {"build_s": 0.0, "bytes": corpus.nbytes}
  return built, {"exact": lambda queries: search_exact(queries, blocks, K)[1]}


def measure(
  folder: pathlib.Path, variant: str, repetitions: int
) -> dict[str, Any]:
  """Builds, tunes, and times each search after one to warm up."""
  built, searches = globals()[f"list_{variant}"](folder)
  queries = np.load(folder / "queries.npy")
  exact = np.load(folder / "queries_exact.npy")
  found = {}
  for name, search in searches.items():
    recall = measure_recall(search(queries), exact)
    seconds = []
    for _ in range(repetitions):
      start = time.perf_counter()
      search(queries)
      seconds.append(time.perf_counter() - start)
    found[name] = {"index_recall": recall, "seconds": seconds}
  return {"built": built, "searches": found}


# -------------------------------------------------------------------- results


def summarize(
  runs: Sequence[Mapping[str, Any]], num_queries: int
) -> dict[str, Any]:
  """Medians over all repetitions of all rounds of a variant."""
  searches = {}
  for name, first in runs[0]["searches"].items():
    seconds = [s for run in runs for s in run["searches"][name]["seconds"]]
    searches[name] = {
      "index_recall": first["index_recall"],
      "queries_per_s": num_queries / statistics.median(seconds),
    }
  built = {
    key: statistics.median(run["built"][key] for run in runs)
    for key in runs[0]["built"]
  }
  return {**built, "searches": searches}


def divide(results: Mapping[str, Any]) -> dict[str, float]:
  """Queries a second of ours divided by each peer's."""

  def speed(variant: str, name: str) -> float | None:
    searches = results.get(variant, {}).get("searches", {})
    return searches.get(name, {}).get("queries_per_s")

  pairs = {
    **{f"scann_{t}/flat": ("scann", str(t), "flat", "exact") for t in TARGETS},
    **{f"scann_{t}/hnsw": ("scann", str(t), "hnsw", str(t)) for t in TARGETS},
    "exact/flat": ("exact", "exact", "flat", "exact"),
  }
  ratios = {}
  for label, (ours, name, peer, peer_name) in pairs.items():
    above = speed(f"ours_{ours}", name)
    below = speed(f"faiss_{peer}", peer_name)
    if above and below:
      ratios[label] = above / below
  return ratios


def run_all(
  folder: pathlib.Path, arguments: argparse.Namespace
) -> dict[str, Any]:
  """Runs all variants in turn, round after round."""
  write_inputs(folder, arguments)
  runs: dict[str, list[Any]] = {v: [] for v in arguments.variants}
  loads = []
  for _ in range(arguments.rounds):
    for variant in arguments.variants:
      loads.append(os.getloadavg()[0])
      command = [sys.executable, __file__, "--task", variant, str(folder)]
      command += ["--repetitions", str(arguments.repetitions)]
      done = subprocess.run(
        command, stdout=subprocess.PIPE, check=True, text=True
      )
      runs[variant].append(json.loads(done.stdout.splitlines()[-1]))
      for left in (folder / "scann").glob("*"):
        left.unlink()
  results = {v: summarize(r, arguments.queries) for v, r in runs.items()}
  return {
    "corpus": f"{arguments.passages} x {arguments.dim}",
    "queries": arguments.queries,
    "k": K,
    "cores": os.cpu_count(),
    "load_before_each": loads,
    "variants": results,
    "ratios": divide(results),
  }


def main() -> None:
  """Runs the benchmark and prints it."""
  parser = argparse.ArgumentParser(description=__doc__)
  numbers = {"passages": 200_000, "dim": 384, "queries": 1000}
  numbers |= {"rounds": 2, "repetitions": 3}
  for name, default in numbers.items():
    parser.add_argument(f"--{name}", type=int, default=default)
  parser.add_argument(
    "--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS)
  )
  parser.add_argument("--task", nargs=2, help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  if arguments.task:
    variant, folder = arguments.task
    found = measure(pathlib.Path(folder), variant, arguments.repetitions)
    print(json.dumps(found))
    return
  with tempfile.TemporaryDirectory() as folder:
    print(json.dumps(run_all(pathlib.Path(folder), arguments), indent=2))


if __name__ == "__main__":
  main()
