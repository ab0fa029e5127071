"""Stage `update-index`: added, changed and removed passages without a build.

What is left of the old index is searched as before; passages that are gone are
passed over, and new or changed ones are searched exactly beside it.
"""

import hashlib
import os
import sys
from collections.abc import Iterator

import numpy as np

from xqg_jax.augmentation.views import AugmentedView, open_view
from xqg_jax.errors import InputError
from xqg_jax.indexes.exact.search import BLOCK_SIZE
from xqg_jax.indexes.index import FORMAT_VERSION, Index
from xqg_jax.indexes.kinds import is_sound_index, open_index
from xqg_jax.indexes.updated import (
  BASE_ROWS_FILE,
  FRESH_FILE,
  FRESH_ROWS_FILE,
  UpdatedIndex,
)
from xqg_jax.io.claims import MANIFEST_FILE, claim_output_dir, lock_folder
from xqg_jax.io.files import sha256_file, write_array, write_json, write_lines
from xqg_jax.io.locations import relate_location
from xqg_jax.io.paths import Path
from xqg_jax.store.shards import IDS_FILE
from xqg_jax.store.vector_checks import check_vectors

# From this share on, exact search of the new passages costs as much as ScaNN.
_MANY = 0.05


def update_index(
  *,
  index: str | os.PathLike,
  embeddings: str | os.PathLike,
  output_dir: str | os.PathLike,
) -> Index:
  """Makes an index of other embeddings from one that was built before.

  A passage is the same if its id and its vector are. The old index and its
  embeddings stay as they are; the new one needs the index that was built. To
  update an update is to update that one: searches do not get slower by steps.

  Args:
    index: folder that `index` or `update_index` wrote, of a kind that
      does not score all passages, such as "scann".
    embeddings: the store or view as it is now, of the same dual encoder.
    output_dir: folder to write; an identical call finds its work done.

  Returns:
    The index; its manifest tells how many passages were kept, added, changed
    and removed.

  Raises:
    InputError: an exact index, embeddings of another dual encoder or without
      passages, or old embeddings that are not those that were indexed.
  """
  base, view = open_index(index), open_view(embeddings)
  _check_pair(base, view)
  folder = claim_output_dir(
    output_dir,
    stage="update-index",
    arguments={
      "base_fingerprint": base.fingerprint,
      "embeddings_fingerprint": view.fingerprint,
    },
  )
  if not is_sound_index(folder):
    location = relate_location(embeddings, folder)
    with lock_folder(folder):
      _write_update(folder, base, view, location)
  return open_index(folder)


def _check_pair(base: Index, view: AugmentedView) -> None:
  if base.is_exact:
    raise InputError(
      "an exact index has nothing to update",
      where=base.path,
      mend="run `xqg index` on the new embeddings: it only notes them",
    )
  found = view.store.encoder_fingerprint, view.dim
  if found != (base.encoder_fingerprint, base.dim):
    raise InputError(
      f"the embeddings are of another encoder ({found[0][:12]}, {found[1]} "
      f"dimensions) than the index ({base.encoder_fingerprint[:12]}, "
      f"{base.dim})",
      where=view.store.path,
      mend="encode the new passages with the index's encoder",
    )
  if not view.num_passages:
    raise InputError("the corpus is empty", mend="encode some passages")


def _write_update(
  folder: Path, base: Index, view: AugmentedView, location: str
) -> None:
  base_rows, counts = _compare(base, view)
  if isinstance(base, UpdatedIndex):
    old, base = base.base_rows, base.base
    # Of the built index's passages those that were there then, and still are.
    base_rows = np.where(old < 0, np.int32(-1), base_rows[old])
  fresh_rows = np.setdiff1d(np.arange(view.num_passages, dtype="i4"), base_rows)
  write_lines(folder / IDS_FILE, view.passage_ids)
  write_array(folder / BASE_ROWS_FILE, base_rows)
  write_array(folder / FRESH_ROWS_FILE, fresh_rows)
  write_array(folder / FRESH_FILE, _read_rows(view, fresh_rows))
  notes = list(base.manifest["notes"])
  if len(fresh_rows) > _MANY * view.num_passages:
    notes.append(
      f"{len(fresh_rows)} of {view.num_passages} passages are searched "
      "exactly; build the index again to search faster"
    )
  files = (BASE_ROWS_FILE, FRESH_FILE, FRESH_ROWS_FILE)
  manifest = {
    "format_version": FORMAT_VERSION,
    "kind": base.kind,
    "num_passages": view.num_passages,
    "dim": view.dim,
    "embeddings": location,
    "embeddings_fingerprint": view.fingerprint,
    "encoder_fingerprint": base.encoder_fingerprint,
    "base_index": relate_location(base.path, folder),
    "base_fingerprint": base.fingerprint,
    "passage_ids": sha256_file(folder / IDS_FILE),
    "files": {name: sha256_file(folder / name) for name in files},
    "update": counts,
    "notes": notes,
  }
  write_json(folder / MANIFEST_FILE, manifest)
  said = ", ".join(f"{count} {what}" for what, count in counts.items())
  print(f"xqg update-index: {said}", file=sys.stderr)


def _compare(
  base: Index, view: AugmentedView
) -> tuple[np.ndarray, dict[str, int]]:
  """New row of each old one, or -1, and how many were kept, added, ..."""
  old_view = base.open_embeddings()
  old = {
    passage_id: (row, digest)
    for row, (passage_id, digest) in enumerate(_list_passages(old_view))
  }
  base_rows = np.full(len(old), -1, np.int32)
  num_known = 0
  for row, (passage_id, digest) in enumerate(_list_passages(view)):
    old_row, old_digest = old.get(passage_id, (-1, b""))
    num_known += old_row >= 0
    if digest == old_digest:
      base_rows[old_row] = row
  num_kept = int((base_rows >= 0).sum())
  counts = {
    "kept": num_kept,
    "added": view.num_passages - num_known,
    "changed": num_known - num_kept,
    "removed": len(old) - num_known,
  }
  return base_rows, counts


def _list_passages(view: AugmentedView) -> Iterator[tuple[str, bytes]]:
  """Id and hash of the vector of each passage."""
  ids = iter(view.passage_ids)
  for start, vectors in view.blocks(BLOCK_SIZE):
    check_vectors(vectors, "passage", first_row=start)
    for vector in np.ascontiguousarray(vectors):
      digest = hashlib.blake2b(vector.tobytes(), digest_size=16).digest()
      yield next(ids), digest


def _read_rows(view: AugmentedView, rows: np.ndarray) -> np.ndarray:
  """The vectors of some rows, which are in order."""
  parts = [np.empty((0, view.dim), np.float32)]
  for start, vectors in view.blocks(BLOCK_SIZE):
    first, stop = np.searchsorted(rows, (start, start + len(vectors)))
    parts.append(vectors[rows[first:stop] - start])
  return np.concatenate(parts)
