"""Sharded ScaNN indexes: built, tuned and measured shard by shard.

scann-00000/                        the assets of a shard, an index of its own
finished/scann-00000.json           its record: parameters and checksums
finished/scann-00000.neighbors.npz  what it finds, and what it should have
"""

import collections
import dataclasses
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, TypedDict

import numpy as np
import tqdm
from jaxtyping import Float, Int

from xqg_jax.augmentation.views import AugmentedView
from xqg_jax.indexes.exact.search import BLOCK_SIZE, search_exact
from xqg_jax.indexes.neighbors import Neighbors, merge_neighbors, shift_rows
from xqg_jax.indexes.scann.index import (
  ASSETS_DIR,
  ScannIndex,
  ScannRecord,
  check_assets,
  derive_parameters,
  write_vectors,
)
from xqg_jax.indexes.scann.tuning import measure_index_recall, tune_parameters
from xqg_jax.indexes.settings import IndexWishes
from xqg_jax.io.files import atomic_path, check_file, read_arrays, sha256_file
from xqg_jax.io.locations import Location
from xqg_jax.io.paths import Path
from xqg_jax.io.scratch import open_scratch
from xqg_jax.io.shard_job import (
  FINISHED_FOLDER,
  Record,
  ShardJob,
  run_shards,
)
from xqg_jax.io.typed_json import Count, PathText

_SCRATCH_DIR = ".build"


def build_shards(
  folder: Path,
  view: AugmentedView,
  wishes: IndexWishes,
  queries: Float[np.ndarray, "queries dim"],
  bounds: Sequence[int],
) -> dict[str, Any]:
  """Builds, tunes and saves the shards; returns the manifest's part."""
  place = Location.of(folder)
  with open_scratch(place, _SCRATCH_DIR) as scratch:
    job = _BuildingJob(
      folder=place,
      scratch=scratch / "vectors.npy",
      view=view,
      wishes=wishes,
      queries=queries,
      bounds=bounds,
    )
    return _describe_shards(job, run_shards(job))


@dataclasses.dataclass(frozen=True)
class _Rows:
  """Consecutive vectors, as a stream first and then on disk."""

  start: int
  stop: int
  blocks: Iterator[tuple[int, np.ndarray]]


# The neighbors of some of the queries, of those held out for one.
_Held = tuple[Float[np.ndarray, "some k"], Int[np.ndarray, "some k"]]


@dataclasses.dataclass(frozen=True)
class _Built:
  """A shard in memory; its neighbors of all queries, and those held out."""

  index: ScannIndex
  start: int
  exact: Neighbors
  found: _Held
  build_seconds: float
  search_seconds: float


class BuiltRecord(TypedDict):
  """Of a built shard: parameters, times, and checksums of its files."""

  name: str
  start: Count
  rows: Count
  parameters: ScannRecord
  build_seconds: float
  search_seconds: float
  neighbors: str
  sha256: dict[PathText, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _BuildingJob(ShardJob[_Rows, tuple[int, np.ndarray], _Built]):
  """What `build_shards` does with one shard; the view is read once."""

  folder: Location
  scratch: Path
  view: AugmentedView
  wishes: IndexWishes
  queries: Float[np.ndarray, "queries dim"]
  bounds: Sequence[int]
  task: str = "index"
  schema: type = BuiltRecord
  overlaps: bool = False  # the vectors of one shard lie on disk at a time

  @property
  def num_shards(self) -> int:
    return len(self.bounds) - 1

  @property
  def total(self) -> int:
    return self.view.num_passages

  @property
  def _middle(self) -> int:
    """Queries before it are for tuning."""
    return (len(self.queries) + 1) // 2

  @property
  def held_out(self) -> slice:
    """Queries to measure with; all of them where there is only one."""
    is_one = self._middle == len(self.queries)
    return slice(0 if is_one else self._middle, None)

  def name_shard(self, index: int) -> str:
    return ASSETS_DIR if self.num_shards == 1 else f"{ASSETS_DIR}-{index:05d}"

  def neighbors_file(self, name: str) -> Location:
    """Neighbors of the queries in a shard, to measure all of them with."""
    return self.folder / FINISHED_FOLDER / f"{name}.neighbors.npz"

  def check(self, record: Record) -> None:
    check_assets(self.folder / record["name"], record["sha256"])
    check_file(self.neighbors_file(record["name"]), record["neighbors"])

  def read(self) -> Iterator[_Rows]:
    blocks = self.view.blocks(BLOCK_SIZE)
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

    for start, stop in itertools.pairwise(self.bounds):
      rows = take(start, stop)
      yield _Rows(start, stop, rows)
      collections.deque(rows, maxlen=0)  # those of a finished shard

  def prepare(self, raw: _Rows) -> tuple[int, np.ndarray]:
    num_vectors, dim = raw.stop - raw.start, self.view.dim
    relative = ((first - raw.start, part) for first, part in raw.blocks)
    write_vectors(self.scratch, relative, num_vectors=num_vectors, dim=dim)
    return raw.start, np.load(self.scratch, mmap_mode="r", allow_pickle=False)

  def make(self, work: tuple[int, np.ndarray], bar: tqdm.tqdm) -> _Built:
    del bar
    start, vectors = work
    exact = search_exact(self.queries, _cut_blocks(vectors), self.wishes.k)
    started = time.perf_counter()
    index = self._build(len(vectors))
    seconds = time.perf_counter() - started
    try:
      self._tune(index, exact)
      held_out = self.queries[self.held_out]
      found, search_seconds = _time_search(index, held_out, self.wishes.k)
    except BaseException:
      index.close()
      raise
    return _Built(index, start, exact, found, seconds, search_seconds)

  def _build(self, num_vectors: int) -> ScannIndex:
    parameters = derive_parameters(
      num_vectors, k=self.wishes.k, num_leaves=self.wishes.num_leaves
    )
    return ScannIndex.build(self.scratch, parameters)

  def _tune(self, index: ScannIndex, exact: Neighbors) -> None:
    index.parameters = tune_parameters(
      index,
      self.queries[: self._middle],
      _take(exact, slice(self._middle)),
      target_index_recall=self.wishes.target_index_recall,
      num_leaves_to_search=self.wishes.num_leaves_to_search,
      num_reordered=self.wishes.num_reordered,
    )

  def write(self, place: Location, made: _Built) -> Record:
    with made.index as index:
      checksums = index.save(place)
    name = self.name_shard(self.bounds.index(made.start))
    neighbors = self.neighbors_file(name)
    exact, found = (
      shift_rows(pair, made.start)
      for pair in (_take(made.exact, self.held_out), made.found)
    )
    with atomic_path(neighbors) as partial, open(partial, "wb") as file:
      arrays = {**_to_arrays("exact", exact), **_to_arrays("found", found)}
      np.savez(file, allow_pickle=False, **arrays)
    return {
      "start": made.start,
      "rows": index.num_vectors,
      "parameters": dataclasses.asdict(index.parameters),
      "build_seconds": round(made.build_seconds, 3),
      "search_seconds": made.search_seconds,
      "neighbors": sha256_file(neighbors),
      "sha256": checksums,
    }


def _take(neighbors: Neighbors, rows: slice) -> _Held:
  return neighbors[0][rows], neighbors[1][rows]


def _to_arrays(name: str, neighbors: Neighbors) -> dict[str, np.ndarray]:
  return {f"{name}_scores": neighbors[0], f"{name}_rows": neighbors[1]}


def _cut_blocks(
  vectors: Float[np.ndarray, "rows dim"],
) -> Iterator[tuple[int, np.ndarray]]:
  for start in range(0, len(vectors), BLOCK_SIZE):
    yield start, vectors[start : start + BLOCK_SIZE]


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


def _read_neighbors(
  job: _BuildingJob, records: Sequence[Record], name: str
) -> Neighbors:
  """The neighbors that all shards together have or find."""
  parts = []
  for record in records:
    arrays = read_arrays(job.neighbors_file(record["name"]))
    parts.append((arrays[f"{name}_scores"], arrays[f"{name}_rows"]))
  return merge_neighbors(parts, job.wishes.k)


def _describe_shards(
  job: _BuildingJob, records: Sequence[Record]
) -> dict[str, Any]:
  """The manifest's part, with recall and speed over all shards."""
  exact, found = (
    _read_neighbors(job, records, name) for name in ("exact", "found")
  )
  num_queries, k = exact[1].shape
  seconds = {
    name: sum(record[name] for record in records)
    for name in ("build_seconds", "search_seconds")
  }
  measured = {
    "index_recall": round(measure_index_recall(found, exact), 6),
    "k": k,
    "num_queries": num_queries,
    "queries_per_second": round(num_queries / seconds["search_seconds"], 1),
    "build_seconds": round(seconds["build_seconds"], 2),
  }
  print(
    f"xqg index: index recall {measured['index_recall']:.4f} at k = {k}, "
    f"{measured['queries_per_second']:,.0f} queries/s",
    file=sys.stderr,
  )
  names = ("name", "start", "rows", "parameters")
  shards = [
    {**{name: record[name] for name in names}, "assets": record["sha256"]}
    for record in records
  ]
  if len(shards) == 1:
    parts = {key: shards[0][key] for key in ("parameters", "assets")}
  else:
    parts = {"shards": shards}
  return {
    **parts,
    "target_index_recall": job.wishes.target_index_recall,
    "measured": measured,
  }
