"""Sharded ScaNN indexes: built, tuned and measured shard by shard.

Each is an index of its own; an interrupted run keeps those that are finished.
"""

import contextlib
import dataclasses
import itertools
import pathlib
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from xqg_jax.augmentation.views import AugmentedView
from xqg_jax.errors import InputError
from xqg_jax.indexes.exact.search import BLOCK_SIZE, search_exact
from xqg_jax.indexes.neighbors import Neighbors, merge_neighbors, shift_rows
from xqg_jax.indexes.scann.index import (
  ASSETS_DIR,
  MIN_VECTORS,
  ScannIndex,
  derive_parameters,
  load_shard,
  write_vectors,
)
from xqg_jax.indexes.scann.tuning import measure_index_recall, tune_parameters
from xqg_jax.indexes.settings import IndexWishes
from xqg_jax.io.files import read_json, write_json

_SCRATCH_DIR = ".build"


@dataclasses.dataclass
class _Built:
  """What the shards built so far say about themselves and the queries.

  Attributes:
    records: one a shard, for the manifest.
    exact: the tuning queries' neighbors in each shard.
    found: what its index finds for the queries held out from tuning.
    build_seconds: without the shards of an earlier run.
    search_seconds: for all held-out queries, in all shards.
  """

  records: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  exact: list[Neighbors] = dataclasses.field(default_factory=list)
  found: list[Neighbors] = dataclasses.field(default_factory=list)
  build_seconds: float = 0.0
  search_seconds: float = 0.0


def build_shards(
  folder: pathlib.Path,
  view: AugmentedView,
  wishes: IndexWishes,
  queries: Float[np.ndarray, "queries dim"],
) -> dict[str, Any]:
  """Builds, tunes and saves the shards; returns the manifest's part."""
  scratch = folder / _SCRATCH_DIR
  scratch.mkdir(exist_ok=True)
  bounds = wishes.cut(view.num_passages, min_rows=MIN_VECTORS)
  built = _Built()
  middle = (len(queries) + 1) // 2
  held_out = slice(middle if middle < len(queries) else 0, None)
  for number, (start, vectors) in enumerate(
    _stage_shards(scratch, view, bounds)
  ):
    name = ASSETS_DIR if len(bounds) == 2 else f"{ASSETS_DIR}-{number:05d}"
    shard = {"name": name, "start": start, "rows": len(vectors)}
    exact = search_exact(queries, _cut_blocks(vectors), wishes.k)
    built.exact.append(shift_rows(exact, start))
    with _open_shard(
      folder,
      shard,
      vectors,
      wishes,
      queries[:middle],
      tuple(part[:middle] for part in exact),
      built,
    ) as index:
      found, seconds = _time_search(index, queries[held_out], wishes.k)
    built.found.append(shift_rows(found, start))
    built.search_seconds += seconds
  shutil.rmtree(scratch)
  return _describe_shards(built, wishes, held_out)


def _stage_shards(
  scratch: pathlib.Path, view: AugmentedView, bounds: Sequence[int]
) -> Iterator[tuple[int, Float[np.ndarray, "rows dim"]]]:
  """Yields (first row, vectors on disk) of each shard; reads the view once."""
  blocks = _show_progress(view, "read embeddings")
  left: tuple[int, np.ndarray] | None = None

  def take(start: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
    nonlocal left
    while start < stop:
      first, block = left or next(blocks)
      part = block[: stop - first]
      yield start, part
      start += len(part)
      rest = block[len(part) :]
      left = (start, rest) if len(rest) else None

  path = scratch / "vectors.npy"
  for start, stop in itertools.pairwise(bounds):
    relative = ((first - start, part) for first, part in take(start, stop))
    write_vectors(path, relative, num_vectors=stop - start, dim=view.dim)
    yield start, np.load(path, mmap_mode="r", allow_pickle=False)
    path.unlink()


def _cut_blocks(
  vectors: Float[np.ndarray, "rows dim"],
) -> Iterator[tuple[int, np.ndarray]]:
  for start in range(0, len(vectors), BLOCK_SIZE):
    yield start, vectors[start : start + BLOCK_SIZE]


def _open_shard(
  folder: pathlib.Path,
  shard: Mapping[str, Any],
  vectors: Float[np.ndarray, "rows dim"],
  wishes: IndexWishes,
  queries: Float[np.ndarray, "queries dim"],
  exact: Neighbors,
  built: _Built,
) -> ScannIndex:
  """The shard of an interrupted run, or a new one, tuned and saved."""
  record_file = folder / _SCRATCH_DIR / f"{shard['name']}.json"
  if record_file.exists():
    # One that was damaged since is built again.
    with contextlib.suppress(InputError):
      record = read_json(record_file)
      index = load_shard(folder, record, dim=vectors.shape[1])
      built.records.append(record)
      return index
  shutil.rmtree(folder / shard["name"], ignore_errors=True)
  started = time.perf_counter()
  index = ScannIndex.build(
    folder / _SCRATCH_DIR / "vectors.npy",
    derive_parameters(len(vectors), k=wishes.k, num_leaves=wishes.num_leaves),
  )
  built.build_seconds += time.perf_counter() - started
  index.parameters = tune_parameters(
    index,
    queries,
    exact,
    target_index_recall=wishes.target_index_recall,
    num_leaves_to_search=wishes.num_leaves_to_search,
    num_reordered=wishes.num_reordered,
  )
  parameters = dataclasses.asdict(index.parameters)
  checksums = index.save(folder / shard["name"])
  record = {**shard, "parameters": parameters, "assets": checksums}
  write_json(record_file, record)
  built.records.append(record)
  return index


def _time_search(
  index: ScannIndex, queries: Float[np.ndarray, "queries dim"], k: int
) -> tuple[Neighbors, float]:
  """What is found, and the median of three times, as the first is slower."""
  seconds = []
  for _ in range(3):
    started = time.perf_counter()
    found = index.search(queries, k)
    seconds.append(time.perf_counter() - started)
  return found, sorted(seconds)[1]


def _describe_shards(
  built: _Built, wishes: IndexWishes, held_out: slice
) -> dict[str, Any]:
  """The manifest's part, with recall and speed over all shards."""
  exact = merge_neighbors(built.exact, wishes.k)
  exact = tuple(part[held_out] for part in exact)
  found = merge_neighbors(built.found, wishes.k)
  num_queries, k = exact[1].shape
  measured = {
    "index_recall": round(measure_index_recall(found, exact), 6),
    "k": k,
    "num_queries": num_queries,
    "queries_per_second": round(num_queries / built.search_seconds, 1),
    "build_seconds": round(built.build_seconds, 2),
  }
  print(
    f"xqg index: index recall {measured['index_recall']:.4f} at k = {k}, "
    f"{measured['queries_per_second']:,.0f} queries/s",
    file=sys.stderr,
  )
  shards = {"shards": built.records}
  if len(built.records) == 1:
    shards = {key: built.records[0][key] for key in ("parameters", "assets")}
  return {
    **shards,
    "target_index_recall": wishes.target_index_recall,
    "measured": measured,
  }


def _show_progress(
  view: AugmentedView, task: str
) -> Iterator[tuple[int, np.ndarray]]:
  with tqdm(total=view.num_passages, desc=task, unit=" passages") as bar:
    for start, vectors in view.blocks(BLOCK_SIZE):
      yield start, vectors
      bar.update(len(vectors))
