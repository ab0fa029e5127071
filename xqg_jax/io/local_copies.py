"""Local copies of files in buckets, for what reads local files alone."""

import hashlib
import os
import pathlib

from xqg_jax.errors import InputError
from xqg_jax.io.buckets import BucketPath
from xqg_jax.io.files import atomic_path, find_cache_folder, write_text
from xqg_jax.io.paths import to_path


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
  key = hashlib.sha256(str(path.parent).encode()).hexdigest()[:16]
  target = _copies_folder(path) / key / path.name
  if path.is_file():
    _copy_file(path, target)
    return target
  files = list(path.walk_files())
  if not files:
    raise InputError(
      "no such file or folder", where=path, mend="check the path"
    )
  for file in files:
    _copy_file(file, target / file.relative_to(path))
  return target


def _copies_folder(path: BucketPath) -> pathlib.Path:
  folder = find_cache_folder() / "buckets"
  # What is in memory goes with its process.
  return folder / str(os.getpid()) if path.is_in_memory else folder


def _copy_file(source: BucketPath, target: pathlib.Path) -> None:
  """Copies a file unless the copy has its generation."""
  note = target.with_name(f".{target.name}.generation")
  generation = (source.generation() or b"").hex()
  if target.is_file() and note.is_file() and note.read_text() == generation:
    return
  note.unlink(missing_ok=True)
  with atomic_path(target) as partial:
    source.download(partial)
  write_text(note, generation)
