"""Checkpoint folders with checksums: complete or absent."""

import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any, TypedDict

from xqg_jax.errors import InputError, NativeError
from xqg_jax.io.buckets import BucketPath
from xqg_jax.io.claims import MANIFEST_FILE
from xqg_jax.io.files import (
  find_cache_folder,
  fingerprint,
  read_json,
  sha256_file,
  write_json,
)
from xqg_jax.io.paths import Path
from xqg_jax.io.typed_json import Count, PathText

# Unfinished work: what is being written, and what is being deleted.
_PARTIAL, _REMOVED = "partial", "removed"


class SealedFile(TypedDict):
  """Size in bytes and checksum of a file of a sealed folder."""

  size: Count
  sha256: str


class SealedManifest(TypedDict):
  """What a sealed folder's manifest holds besides the writer's facts."""

  files: dict[PathText, SealedFile]


def partial_folder(folder: Path) -> pathlib.Path:
  """The temporary name of a folder that is not complete yet.

  One in a bucket is made in the local cache.
  """
  if isinstance(folder, BucketPath):
    key = fingerprint(str(folder.parent))[:16]
    folder = find_cache_folder() / "unfinished" / key / folder.name
  return folder.with_name(f".{folder.name}.{_PARTIAL}")


def seal_folder(folder: Path, facts: Mapping[str, Any]) -> None:
  """Renames a folder into place once all of it is on disk.

  To a bucket it is copied, its manifest last, and read back.

  Args:
    folder: its name; so far it lies at `partial_folder(folder)`.
    facts: written to its manifest, besides size and SHA-256 of every file.

  Raises:
    NativeError: the bucket holds something else than was written.
  """
  partial = partial_folder(folder)
  files = {
    str(path.relative_to(partial)): {
      "size": path.stat().st_size,
      "sha256": sha256_file(path),
    }
    for path in _list_files(partial)
  }
  write_json(partial / MANIFEST_FILE, {**facts, "files": files})
  if isinstance(folder, BucketPath):
    _move_to_bucket(partial, folder)
    return
  for path in (*partial.rglob("*"), partial):
    _sync(path)
  partial.replace(folder)
  _sync(folder.parent)


def _move_to_bucket(partial: pathlib.Path, folder: BucketPath) -> None:
  folder.remove_tree()  # a killed run may have left some of it
  folder.upload(partial)
  if damage := find_damage(folder):
    raise NativeError(f"{folder} was not written as it should be: {damage}")
  shutil.rmtree(partial)


def _list_files(folder: pathlib.Path) -> list[pathlib.Path]:
  return sorted(path for path in folder.rglob("*") if path.is_file())


def _sync(path: pathlib.Path) -> None:
  """Waits until a file, or the names in a folder, are on disk."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def find_damage(folder: Path) -> str | None:
  """Says what differs from a folder's manifest, or None.

  None also where there is no manifest on disk: older versions wrote none.
  """
  in_bucket = isinstance(folder, BucketPath)
  if not (folder / MANIFEST_FILE).is_file():
    return f"{MANIFEST_FILE} is missing" if in_bucket else None
  try:
    files = read_json(folder / MANIFEST_FILE, SealedManifest)["files"]
  except InputError:
    return f"{MANIFEST_FILE} is not readable"
  for name, expected in files.items():
    path = folder / name
    if not path.is_file():
      return f"{name} is missing"
    if not in_bucket and path.stat().st_size != expected["size"]:
      return f"{name} has {path.stat().st_size} bytes of {expected['size']}"
    if sha256_file(path) != expected["sha256"]:
      return f"{name} has another SHA-256 than when it was written"
  return None


def discard_folder(folder: Path) -> None:
  """Deletes a folder; a kill on the way leaves nothing under its name.

  In a bucket it leaves a folder without manifest, which counts for nothing.
  """
  if isinstance(folder, BucketPath):
    (folder / MANIFEST_FILE).unlink(missing_ok=True)
    folder.remove_tree()
    return
  removed = folder.with_name(f".{folder.name}.{_REMOVED}")
  shutil.rmtree(removed, ignore_errors=True)
  folder.replace(removed)
  shutil.rmtree(removed)


def clear_leftovers(parent: Path, pattern: str) -> None:
  """Deletes what a killed process was writing or deleting.

  Args:
    parent: the folder it worked in.
    pattern: of the names that whole folders have.
  """
  if isinstance(parent, BucketPath):
    shutil.rmtree(partial_folder(parent / "any").parent, ignore_errors=True)
    for path in parent.glob(pattern):
      if not (path / MANIFEST_FILE).is_file():
        path.remove_tree()
    return
  for ending in (_PARTIAL, _REMOVED):
    for path in parent.glob(f".{pattern}.{ending}"):
      shutil.rmtree(path)


# ------------------------------------------------------------------ full disk
