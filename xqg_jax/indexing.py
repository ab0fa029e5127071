"""Stage `index`: a ScaNN index tuned to a wanted index recall, or exact search.

manifest.json     kind, embeddings, parameters, measured recall and speed
passage_ids.txt   one id a line, in order of rows
scann/            ScaNN's assets, only for kind "scann"
"""

import dataclasses
import functools
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from xqg_jax.augmentation import AugmentedView, open_view
from xqg_jax.errors import InputError
from xqg_jax.exact_search import BLOCK_SIZE, Neighbors, search_exact
from xqg_jax.files import (
  claim_output_dir,
  fingerprint,
  lock_folder,
  read_json,
  sha256_file,
  write_json,
  write_text,
)
from xqg_jax.index_tuning import (
  make_tuning_queries,
  measure_index_recall,
  read_tuning_queries,
  tune_parameters,
)
from xqg_jax.scann_index import (
  MIN_VECTORS,
  ScannIndex,
  ScannParameters,
  derive_parameters,
  write_vectors,
)

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
IDS_FILE = "passage_ids.txt"
ASSETS_DIR = "scann"
_SCRATCH_DIR = ".build"


# ------------------------------------------------------------------ the index


@dataclasses.dataclass(frozen=True)
class Index:
  """A finished index, opened lazily; a context manager.

  Attributes:
    path: its folder.
    manifest: contents of `manifest.json`.
  """

  path: pathlib.Path
  manifest: Mapping[str, Any]

  @property
  def kind(self) -> str:
    """How it searches: "scann" or "exact"."""
    return self.manifest["kind"]

  @property
  def dim(self) -> int:
    """Dimensions of a vector."""
    return self.manifest["dim"]

  @property
  def encoder_fingerprint(self) -> str:
    """Fingerprint of the dual encoder that made the vectors."""
    return self.manifest["encoder_fingerprint"]

  @functools.cached_property
  def fingerprint(self) -> str:
    """SHA-256 of what decides results; not of where it lies or how fast."""
    apart = ("embeddings", "measured")
    return fingerprint(
      {name: v for name, v in self.manifest.items() if name not in apart}
    )

  @property
  def embeddings(self) -> pathlib.Path:
    """The store or view that was indexed."""
    return pathlib.Path(
      os.path.normpath(self.path / self.manifest["embeddings"])
    )

  @functools.cached_property
  def passage_ids(self) -> list[str]:
    """The passages' ids in order of rows, checked against the manifest.

    Raises:
      InputError: the file is missing or was changed.
    """
    path = self.path / IDS_FILE
    if not path.is_file() or sha256_file(path) != self.manifest["passage_ids"]:
      raise InputError(
        "is missing or differs from its checksum",
        where=path,
        mend="build the index again",
      )
    return path.read_text(encoding="utf-8").split("\n")[:-1]

  @functools.cached_property
  def _view(self) -> AugmentedView:
    view = open_view(self.embeddings)
    if view.fingerprint != self.manifest["embeddings_fingerprint"]:
      raise InputError(
        "the embeddings are not those that were indexed",
        where=self.embeddings,
        mend="build the index again",
      )
    return view

  @functools.cached_property
  def _scann(self) -> ScannIndex:
    return ScannIndex.load(
      self.path / ASSETS_DIR,
      checksums=self.manifest["assets"],
      num_vectors=self.manifest["num_passages"],
      dim=self.dim,
      parameters=ScannParameters(**self.manifest["parameters"]),
    )

  def search(
    self, queries: Float[np.ndarray, "queries _"], k: int
  ) -> Neighbors:
    """Finds the k nearest passages of each query.

    Args:
      queries: query embeddings, float32.
      k: how many; as many as there are passages when that is less.

    Returns:
      (scores, rows int32) [queries, k]; row -1 where nothing was found.

    Raises:
      InputError: bad queries, or an index whose files were changed.
      ScannError: ScaNN failed or crashed.
    """
    if self.kind == "scann":
      return self._scann.search(queries, k)
    return search_exact(queries, self._view.blocks(BLOCK_SIZE), k)

  def close(self) -> None:
    """Ends ScaNN's process, if there is one."""
    if "_scann" in self.__dict__:
      self._scann.close()

  def __enter__(self) -> "Index":
    return self

  def __exit__(self, *exception: object) -> None:
    self.close()


def open_index(path: str | os.PathLike) -> Index:
  """Opens an index: reads its manifest, and nothing else yet.

  Raises:
    InputError: no finished index there, or one of another format.
  """
  path = pathlib.Path(path)
  if not (path / MANIFEST_FILE).exists():
    raise InputError(
      "no finished index here (manifest.json is missing)",
      where=path,
      mend="check the path, or run the same index command again",
    )
  manifest = read_json(path / MANIFEST_FILE)
  is_index = isinstance(manifest, dict) and "embeddings_fingerprint" in manifest
  if not is_index or manifest.get("format_version") != FORMAT_VERSION:
    raise InputError(
      f"not an index of format version {FORMAT_VERSION}",
      where=path / MANIFEST_FILE,
      mend="build the index again with this version",
    )
  return Index(path, manifest)


# ---------------------------------------------------------------------- stage


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Wishes:
  """What the user asked for; decides the bytes written."""

  kind: Literal["scann", "exact"]
  num_leaves: int | None
  num_leaves_to_search: int | None
  num_reordered: int | None
  target_index_recall: float
  k: int
  num_tuning_queries: int
  seed: int

  def __post_init__(self):
    if self.kind not in ("scann", "exact"):
      raise InputError(
        f"unknown kind of index {self.kind!r}", mend='use "scann" or "exact"'
      )
    if not 0 < self.target_index_recall <= 1:
      raise InputError(
        f"target_index_recall is {self.target_index_recall}",
        mend="use a share above 0 and at most 1, such as 0.99",
      )
    for name in (
      "num_leaves",
      "num_leaves_to_search",
      "num_reordered",
      "k",
      "num_tuning_queries",
    ):
      value = getattr(self, name)
      if value is not None and value < 1:
        raise InputError(f"{name} is {value}", mend="use at least 1")


def build_index(
  *,
  embeddings: str | os.PathLike,
  output_dir: str | os.PathLike,
  kind: Literal["scann", "exact"] = "scann",
  num_leaves: int | None = None,
  num_leaves_to_search: int | None = None,
  num_reordered: int | None = None,
  target_index_recall: float = 0.99,
  k: int = 100,
  tuning_queries: str | os.PathLike | None = None,
  num_tuning_queries: int = 256,
  seed: int = 0,
) -> Index:
  """Builds an index over a store or an augmented view.

  Args:
    embeddings: folder that `encode` or `augment` wrote.
    output_dir: folder to write; an identical call finds its work done.
    kind: "scann", or "exact" for a full search of all vectors. Fewer than 200
      passages are always searched exactly.
    num_leaves: cells of ScaNN's tree; about the root of the number of
      passages when absent.
    num_leaves_to_search: cells looked into for each query; tuned when absent.
    num_reordered: candidates scored exactly; tuned when absent.
    target_index_recall: share of the exact k nearest neighbors to be found.
    k: the number of neighbors to tune for.
    tuning_queries: .npy file of question vectors to tune with; passages moved
      by noise when absent.
    num_tuning_queries: how many to tune with, and as many others to measure.
    seed: decides which.

  Returns:
    The index; its manifest tells the recall and speed measured on queries
    that were not used for tuning.

  Raises:
    InputError: bad arguments, or a folder that holds something else.
    ScannError: ScaNN failed or crashed.
  """
  wishes = _Wishes(
    kind=kind,
    num_leaves=num_leaves,
    num_leaves_to_search=num_leaves_to_search,
    num_reordered=num_reordered,
    target_index_recall=target_index_recall,
    k=k,
    num_tuning_queries=num_tuning_queries,
    seed=seed,
  )
  view = open_view(embeddings)
  derive_parameters(view.num_passages, k=k, num_leaves=num_leaves)
  queries = None
  if tuning_queries is not None:
    queries = read_tuning_queries(
      tuning_queries,
      dim=view.dim,
      num_queries=2 * num_tuning_queries,
      seed=seed,
    )
  folder = claim_output_dir(
    output_dir,
    stage="index",
    arguments={
      **dataclasses.asdict(wishes),
      "embeddings_fingerprint": view.fingerprint,
      "tuning_queries": tuning_queries and sha256_file(tuning_queries),
    },
  )
  if not (folder / MANIFEST_FILE).exists():
    location = os.path.relpath(embeddings, folder)
    with lock_folder(folder):
      _write_index(folder, view, wishes, queries, location)
  return open_index(folder)


def _write_index(
  folder: pathlib.Path,
  view: AugmentedView,
  wishes: _Wishes,
  queries: Float[np.ndarray, "queries dim"] | None,
  location: str,
) -> None:
  write_text(folder / IDS_FILE, "".join(f"{i}\n" for i in view.passage_ids))
  manifest = {
    "format_version": FORMAT_VERSION,
    "kind": wishes.kind,
    "num_passages": view.num_passages,
    "dim": view.dim,
    "embeddings": location,
    "embeddings_fingerprint": view.fingerprint,
    "encoder_fingerprint": view.store.encoder_fingerprint,
    "passage_ids": sha256_file(folder / IDS_FILE),
    "notes": [],
  }
  if wishes.kind == "scann" and view.num_passages < MIN_VECTORS:
    note = (
      f"{view.num_passages} passages are fewer than {MIN_VECTORS}: "
      "searched exactly instead of with ScaNN"
    )
    print(f"xqg index: {note}", file=sys.stderr)
    manifest |= {"kind": "exact", "notes": [note]}
  elif wishes.kind == "scann":
    if queries is None:
      queries = make_tuning_queries(
        view, num_queries=2 * wishes.num_tuning_queries, seed=wishes.seed
      )
    manifest |= _write_scann(folder, view, wishes, queries)
  write_json(folder / MANIFEST_FILE, manifest)


def _write_scann(
  folder: pathlib.Path,
  view: AugmentedView,
  wishes: _Wishes,
  queries: Float[np.ndarray, "queries dim"],
) -> dict[str, Any]:
  """Builds, tunes, measures and saves; returns the manifest's part."""
  parameters = derive_parameters(
    view.num_passages, k=wishes.k, num_leaves=wishes.num_leaves
  )
  for leftover in (ASSETS_DIR, _SCRATCH_DIR):  # of an interrupted run
    shutil.rmtree(folder / leftover, ignore_errors=True)
  started = time.perf_counter()
  with _build_scann(folder / _SCRATCH_DIR, view, parameters) as index:
    build_seconds = time.perf_counter() - started
    exact = search_exact(
      queries, _show_progress(view, "search exactly"), wishes.k
    )
    middle = (len(queries) + 1) // 2
    index.parameters = tune_parameters(
      index,
      queries[:middle],
      tuple(part[:middle] for part in exact),
      target_index_recall=wishes.target_index_recall,
      num_leaves_to_search=wishes.num_leaves_to_search,
      num_reordered=wishes.num_reordered,
    )
    held_out = slice(middle if middle < len(queries) else 0, None)
    measured = _measure(
      index, queries[held_out], tuple(part[held_out] for part in exact)
    )
    checksums = index.save(folder / ASSETS_DIR)
  print(
    f"xqg index: index recall {measured['index_recall']:.4f} at "
    f"k = {measured['k']}, {measured['queries_per_second']:,.0f} queries/s",
    file=sys.stderr,
  )
  return {
    "parameters": dataclasses.asdict(index.parameters),
    "target_index_recall": wishes.target_index_recall,
    "measured": {**measured, "build_seconds": round(build_seconds, 2)},
    "assets": checksums,
  }


def _build_scann(
  scratch: pathlib.Path, view: AugmentedView, parameters: ScannParameters
) -> ScannIndex:
  """Builds from a copy of the vectors on disk, which is then removed."""
  scratch.mkdir()
  try:
    write_vectors(
      scratch / "vectors.npy",
      _show_progress(view, "read embeddings"),
      num_vectors=view.num_passages,
      dim=view.dim,
    )
    return ScannIndex.build(scratch / "vectors.npy", parameters)
  finally:
    shutil.rmtree(scratch)


def _show_progress(
  view: AugmentedView, task: str
) -> Iterator[tuple[int, np.ndarray]]:
  with tqdm(total=view.num_passages, desc=task, unit=" passages") as bar:
    for start, vectors in view.blocks(BLOCK_SIZE):
      yield start, vectors
      bar.update(len(vectors))


def _measure(
  index: ScannIndex,
  queries: Float[np.ndarray, "queries dim"],
  exact: Neighbors,
) -> dict[str, float]:
  """Index recall and speed; the median of three, as the first is slower."""
  k = exact[1].shape[1]
  seconds = []
  for _ in range(3):
    started = time.perf_counter()
    found = index.search(queries, k)
    seconds.append(time.perf_counter() - started)
  return {
    "index_recall": round(measure_index_recall(found, exact), 6),
    "k": k,
    "num_queries": len(queries),
    "queries_per_second": round(len(queries) / sorted(seconds)[1], 1),
  }
