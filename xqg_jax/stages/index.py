"""Stage `index`: ScaNN tuned to a wanted index recall, or exact search."""

import os
import sys

import numpy as np
from jaxtyping import Float

from xqg_jax.augmentation.centering import (
  NOT_CENTERED,
  Centering,
  CenterSettings,
)
from xqg_jax.augmentation.views import AugmentedView, open_view
from xqg_jax.errors import InputError
from xqg_jax.evaluation.search_folder import (
  EMBEDDINGS_FILE,
  is_search_folder,
  read_searched,
)
from xqg_jax.indexes.index import FORMAT_VERSION, Index
from xqg_jax.indexes.kinds import find_kind, is_sound_index, open_index
from xqg_jax.indexes.scann.tuning import (
  draw_tuning_queries,
  make_tuning_queries,
  read_tuning_queries,
)
from xqg_jax.indexes.settings import IndexWishes
from xqg_jax.io.claims import MANIFEST_FILE, claim_output_dir, lock_folder
from xqg_jax.io.files import sha256_file, write_json, write_lines
from xqg_jax.io.locations import relate_location
from xqg_jax.io.paths import Path, to_path
from xqg_jax.io.typed_json import Positive, Seed
from xqg_jax.store.shards import IDS_FILE


def build_index(
  *,
  embeddings: str | os.PathLike,
  output_dir: str | os.PathLike,
  kind: str = "scann",
  num_leaves: Positive | None = None,
  num_leaves_to_search: Positive | None = None,
  num_reordered: Positive | None = None,
  target_index_recall: float = 0.99,
  k: Positive = 100,
  tuning_queries: str | os.PathLike | None = None,
  num_tuning_queries: Positive = 256,
  seed: Seed = 0,
  num_shards: Positive | None = None,
  rows_per_shard: Positive | None = None,
  centering: CenterSettings = NOT_CENTERED,
) -> Index:
  """Builds an index over a store or an augmented view.

  Args:
    embeddings: folder that `encode` or `augment` wrote.
    output_dir: folder to write; an identical call finds its work done.
    kind: "scann", or "exact" for a full search of all vectors. Fewer passages
      than the kind needs (200) are always searched exactly.
    num_leaves: cells of ScaNN's tree; about the root of the number of
      passages when absent.
    num_leaves_to_search: cells looked into for each query; tuned when absent.
    num_reordered: candidates scored exactly; tuned when absent.
    target_index_recall: share of the exact k nearest neighbors to be found.
    k: the number of neighbors to tune for.
    tuning_queries: question vectors to tune with: a folder that `search`
      wrote, or a .npy file; passages moved by noise when absent.
    num_tuning_queries: how many to tune with, and as many others to measure.
    seed: decides which.
    num_shards: ScaNN indexes that the passages are divided among, for corpora
      beyond a machine's memory; 1 when absent.
    rows_per_shard: passages in one, at most, instead of their number.
    centering: of the questions to tune for; a .npy file is taken as it is.

  Returns:
    The index; its manifest tells the recall and speed measured on queries
    that were not used for tuning.

  Raises:
    InputError: bad arguments, or a folder that holds something else.
    ScannError: ScaNN failed or crashed.
  """
  chosen = find_kind(kind)
  wishes = IndexWishes(
    kind=kind,
    num_leaves=num_leaves,
    num_leaves_to_search=num_leaves_to_search,
    num_reordered=num_reordered,
    target_index_recall=target_index_recall,
    k=k,
    num_tuning_queries=num_tuning_queries,
    seed=seed,
    num_shards=num_shards,
    rows_per_shard=rows_per_shard,
  )
  view = open_view(embeddings)
  if not view.num_passages:
    raise InputError(
      "the corpus is empty", where=embeddings, mend="encode some passages"
    )
  chosen.check(wishes, view.num_passages)
  centered = centering.open(
    store=view.store.path, encoder_fingerprint=view.store.encoder_fingerprint
  )
  queries = _read_queries(
    tuning_queries,
    view,
    centered,
    num_queries=2 * num_tuning_queries,
    seed=seed,
  )
  folder = claim_output_dir(
    output_dir,
    stage="index",
    arguments={
      **wishes.to_json(),
      "embeddings_fingerprint": view.fingerprint,
      "tuning_queries": tuning_queries and _digest(tuning_queries),
      **({"centering": noted} if (noted := centered.to_json()) else {}),
    },
  )
  if not is_sound_index(folder):
    location = relate_location(embeddings, folder)
    with lock_folder(folder):
      _write_index(folder, view, wishes, queries, location)
  return open_index(folder)


def _digest(tuning_queries: str | os.PathLike) -> str:
  is_folder = is_search_folder(tuning_queries)
  path = to_path(tuning_queries)
  return sha256_file(path / EMBEDDINGS_FILE if is_folder else path)


def _read_queries(
  tuning_queries: str | os.PathLike | None,
  view: AugmentedView,
  centering: Centering,
  *,
  num_queries: int,
  seed: int,
) -> Float[np.ndarray, "queries dim"] | None:
  """Questions to tune with; None leaves them to the kind of index."""
  if tuning_queries is None:
    if not centering.strength:
      return None
    moved = make_tuning_queries(view, num_queries=num_queries, seed=seed)
    return centering.apply(moved, [None] * len(moved))
  how = {"dim": view.dim, "num_queries": num_queries, "seed": seed}
  if not is_search_folder(tuning_queries):
    return read_tuning_queries(tuning_queries, **how)
  searched = read_searched(tuning_queries)
  vectors = centering.apply(searched.uncentered(), searched.languages)
  return draw_tuning_queries(vectors, **how)


def _write_index(
  folder: Path,
  view: AugmentedView,
  wishes: IndexWishes,
  queries: Float[np.ndarray, "queries dim"] | None,
  location: str,
) -> None:
  write_lines(folder / IDS_FILE, view.passage_ids)
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
  kind = find_kind(wishes.kind)
  if view.num_passages < kind.min_passages:
    note = (
      f"{view.num_passages} passages are fewer than {kind.min_passages}: "
      f"searched exactly instead of with {kind.shown_name}"
    )
    print(f"xqg index: {note}", file=sys.stderr)
    manifest |= {"kind": "exact", "notes": [note]}
  else:
    manifest |= kind.build(folder, view, wishes, queries)
  write_json(folder / MANIFEST_FILE, manifest)
