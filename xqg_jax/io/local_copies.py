"""Local copies of files in buckets, for what reads local files alone."""

import hashlib
import os
import pathlib
from collections.abc import Sequence

from xqg_jax.errors import InputError
from xqg_jax.io.buckets import BucketPath
from xqg_jax.io.files import atomic_path, find_cache_folder, write_text
from xqg_jax.io.paths import to_path
from xqg_jax.io.progress import Progress


def copy_here(path: str | os.PathLike) -> pathlib.Path:
  """The path itself if it is local, else that of a copy.

  Copies lie in `$XDG_CACHE_HOME/xqg_jax` or `~/.cache/xqg_jax`; a file is
  copied again when it has changed in the bucket.

  Args:
    path: a file or a folder.

  Raises:
    InputError: nothing is there, or it cannot be read.
  """
  path = to_path(path)
  if not isinstance(path, BucketPath):
    return path
  if path.is_file():
    return copy_files([path], path.parent) / path.name
  files = list(path.walk_files())
  if not files:
    raise InputError(
      "no such file or folder", where=path, mend="check the path"
    )
  target = copy_files(files, path)
  _remove_others(target, [target / file.relative_to(path) for file in files])
  return target


def _remove_others(folder: pathlib.Path, kept: Sequence[pathlib.Path]) -> None:
  """Deletes what the bucket has no longer."""
  for path in set(folder.rglob("*")) - set(kept):
    if path.is_file():
      path.unlink()


def copy_files(files: Sequence[BucketPath], folder: BucketPath) -> pathlib.Path:
  """Copies files of a folder, unless equal copies are there.

  Args:
    files: what is wanted.
    folder: around them all.

  Returns:
    The copy of the folder; it may hold other files of it from before.

  Raises:
    InputError: one cannot be read.
  """
  key = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
  target = _copies_folder(folder) / key / "files" / folder.name
  notes = target.parent.with_name("generations")
  bar = Progress(files, desc=f"copying {folder.name}", unit=" files", delay=1)
  for file in bar:
    name = file.relative_to(folder)
    _copy_file(file, target / name, notes / name)
  return target


def _copies_folder(path: BucketPath) -> pathlib.Path:
  folder = find_cache_folder() / "buckets"
  # What is in memory goes with its process.
  return folder / str(os.getpid()) if path.is_in_memory else folder


def _copy_file(
  source: BucketPath, target: pathlib.Path, note: pathlib.Path
) -> None:
  """Copies a file unless the copy has its generation, as noted."""
  generation = (source.generation() or b"").hex()
  if target.is_file() and note.is_file() and note.read_text() == generation:
    return
  note.unlink(missing_ok=True)
  with atomic_path(target) as partial:
    source.download(partial)
  write_text(note, generation)
