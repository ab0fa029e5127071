"""Stage `store export`: vectors for programs that do not read stores."""

import os
import struct
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
from jaxtyping import Float32

from xqg_jax.augmentation.centering import open_means
from xqg_jax.augmentation.language_means import LanguageMeans, has_means
from xqg_jax.augmentation.views import AugmentedView, open_view
from xqg_jax.errors import InputError
from xqg_jax.io.claims import MANIFEST_FILE, claim_output_dir, lock_folder
from xqg_jax.io.files import (
  atomic_path,
  import_pyarrow,
  write_array,
  write_json,
  write_lines,
  write_npy,
  write_rows,
  write_text,
)
from xqg_jax.io.locations import cannot_write
from xqg_jax.io.manifests import read_sound_manifest, sum_files
from xqg_jax.io.paths import Path
from xqg_jax.io.progress import Progress
from xqg_jax.store.shards import IDS_FILE

FORMATS = ("numpy", "parquet", "faiss")
_BLOCK_SIZE = 65_536
MEANS_FILE = "question_means.npy"
LANGUAGES_FILE = "question_means_languages.txt"
_HOW_TO_CENTER = """\
Subtract from a question's vector CENTER (0.8, say) times the row of its
language in question_means.npy; question_means_languages.txt has the rows'
languages, and "all" is for a language that is not among them.

numpy: question = question - 0.8 * means[languages.index("fi")]
SQL (pgvector), $1 the question and $2 0.8 times the row of its language:
SELECT passage_id FROM passages
ORDER BY embedding <#> ($1::vector - $2::vector) LIMIT 10;
"""
# A flat index of inner products, as FAISS writes it: its name and metric, two
# fields that it ignores, and that it needs no training.
_FAISS_NAME, _FAISS_UNUSED, _FAISS_INNER_PRODUCT = b"IxFI", 1 << 20, 0


def export_store(
  *,
  store: str | os.PathLike,
  output_dir: str | os.PathLike,
  format: Literal["numpy", "parquet", "faiss"] = "numpy",
  normalize: bool = False,
  center_means: str | os.PathLike | None = None,
) -> Path:
  """Writes a store's or a view's vectors in float32 for other programs.

  "numpy" writes `embeddings.npy` and `passage_ids.txt`; "faiss" a flat index
  of inner products, `embeddings.faiss`, beside the ids; "parquet" files of
  `passage_id` and `embedding`, one a block (needs pyarrow, the extra
  `parquet`). Vectors stream through memory.

  A question's best passages are those of the largest inner products with its
  vector; `manifest.json` says so as `metric`. The vectors of a view are not of
  unit length, so by cosine other passages are best.

  Where there are means of questions, `question_means.npy` has what a full
  centring subtracts from a question of each language of
  `question_means_languages.txt`, the last of them "all"; `centering.txt` says
  how, in numpy and in SQL.

  Args:
    store: folder of a store or of a view.
    output_dir: folder to write; an identical call finds its work done.
    format: one of the three.
    normalize: scale vectors to unit length, for an engine that knows cosine
      alone. It ranks otherwise than this package: measure that.
    center_means: folder that `center` wrote, or a store with means; None: the
      store's own means, if it has any.

  Returns:
    The folder.

  Raises:
    InputError: no such store, a damaged one, a full disk, no pyarrow, or
      another process that writes there.
  """
  if format not in FORMATS:
    raise InputError(
      f"unknown format {format!r}", mend=f"use one of {', '.join(FORMATS)}"
    )
  view = open_view(store)
  means = _open_means(view, center_means)
  noted: dict[str, str | bool] = {}
  noted |= {} if means is None else {"means_fingerprint": means.fingerprint}
  if normalize:
    noted["normalize"] = True
  folder = claim_output_dir(
    output_dir,
    stage="store export",
    arguments={"view_fingerprint": view.fingerprint, "format": format, **noted},
  )
  if read_sound_manifest(folder, task="store export") is None:
    with lock_folder(folder):
      if means is not None:
        _write_means(means, folder)
      _write(_Stream(view, normalize), folder, format)
  return folder


def _open_means(
  view: AugmentedView, center_means: str | os.PathLike | None
) -> LanguageMeans | None:
  if center_means is None and not has_means(view.store.path):
    return None
  return open_means(
    view.store.path if center_means is None else center_means,
    encoder_fingerprint=view.store.encoder_fingerprint,
    dim=view.dim,
  )


def _write_means(means: LanguageMeans, folder: Path) -> None:
  languages = [*means.languages, "all"]
  offsets = means.select([*means.languages, None]).astype(np.float32)
  write_array(folder / MEANS_FILE, offsets)
  write_lines(folder / LANGUAGES_FILE, languages)
  write_text(folder / "centering.txt", _HOW_TO_CENTER)


class _Stream:
  """A view's vectors in blocks, with progress; notes their lengths.

  Attributes:
    view: the view.
    normalize: whether they are scaled to unit length.
    lengths: the shortest and the longest, as they are written.
  """

  def __init__(self, view: AugmentedView, normalize: bool):
    """Reads nothing yet."""
    self.view = view
    self.normalize = normalize
    self.lengths = (np.inf, 0.0)

  def __iter__(
    self,
  ) -> Iterator[tuple[int, Float32[np.ndarray, "rows dim"]]]:
    with Progress(
      desc="export", total=self.view.num_passages, unit=" passages"
    ) as progress:
      for start, vectors in self.view.blocks(_BLOCK_SIZE):
        yield start, self._scale(vectors.astype(np.float32, copy=False))
        progress.update(len(vectors))

  def _scale(
    self, vectors: Float32[np.ndarray, "rows dim"]
  ) -> Float32[np.ndarray, "rows dim"]:
    lengths = np.linalg.norm(vectors, axis=1)
    if self.normalize:
      vectors = vectors / np.where(lengths > 0, lengths, 1)[:, None]
      lengths = np.linalg.norm(vectors, axis=1)
    shortest, longest = self.lengths
    self.lengths = (
      min(shortest, float(lengths.min())),
      max(longest, float(lengths.max())),
    )
    return vectors


def _write(stream: _Stream, folder: Path, format: str) -> None:
  view = stream.view
  writers: dict[str, Callable[[_Stream, Path], None]] = {
    "numpy": _write_numpy,
    "faiss": _write_faiss,
    "parquet": _write_parquet,
  }
  try:
    writers[format](stream, folder)
  except OSError as error:
    raise cannot_write(folder, error) from None
  write_json(
    folder / MANIFEST_FILE,
    {
      "format": format,
      "num_passages": view.num_passages,
      "dim": view.dim,
      "metric": "inner product",
      "lengths": list(stream.lengths),
      "view_fingerprint": view.fingerprint,
      "encoder_fingerprint": view.store.encoder_fingerprint,
      "files": sum_files(folder),
    },
  )


def _write_numpy(stream: _Stream, folder: Path) -> None:
  view = stream.view
  shape = (view.num_passages, view.dim)
  with atomic_path(folder / "embeddings.npy") as partial:
    with partial.open("wb") as file:
      write_npy(file, (vectors for _, vectors in stream), shape=shape)
  write_lines(folder / IDS_FILE, view.passage_ids)


def _write_faiss(stream: _Stream, folder: Path) -> None:
  view = stream.view
  header = struct.pack(
    "<4siqqq?iQ",
    _FAISS_NAME,
    view.dim,
    view.num_passages,
    _FAISS_UNUSED,
    _FAISS_UNUSED,
    True,
    _FAISS_INNER_PRODUCT,
    view.num_passages * view.dim,
  )
  with atomic_path(folder / "embeddings.faiss") as partial:
    with partial.open("wb") as file:
      file.write(header)
      write_rows(file, (vectors for _, vectors in stream))
  write_lines(folder / IDS_FILE, view.passage_ids)


def _write_parquet(stream: _Stream, folder: Path) -> None:
  arrow, parquet = import_pyarrow()
  view, ids = stream.view, stream.view.passage_ids
  for start, vectors in stream:
    flat = arrow.array(np.ascontiguousarray(vectors).reshape(-1))
    columns = {
      "passage_id": arrow.array(ids[start : start + len(vectors)]),
      "embedding": arrow.FixedSizeListArray.from_arrays(flat, view.dim),
    }
    name = f"part-{start // _BLOCK_SIZE:05d}.parquet"
    with atomic_path(folder / name) as partial:
      parquet.write_table(arrow.table(columns), partial)
