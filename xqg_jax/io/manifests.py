"""Manifests of finished folders: files with checksums, found sound or damaged.

A verb writes `manifest.json` last. Called again, it takes what is there if all
files are as they were written; else it says what is damaged and writes them
again.
"""

import os
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any, NotRequired, TypedDict

from xqg_jax.errors import InputError
from xqg_jax.io.claims import MANIFEST_FILE, OPERATIVE_CONFIG, RUN_FILE
from xqg_jax.io.files import check_file, read_json, sha256_file
from xqg_jax.io.paths import Path
from xqg_jax.io.typed_json import PathText

_NOT_SUMMED = (RUN_FILE, OPERATIVE_CONFIG, MANIFEST_FILE)


class FileSums(TypedDict):
  """What a manifest notes of the files beside it: SHA-256 by name."""

  files: NotRequired[dict[PathText, str]]


def sum_files(folder: Path) -> dict[str, str]:
  """SHA-256 of each file of a folder, by its path in it, for the manifest.

  Left out are the files that say how the folder came to be, and hidden ones.
  """
  names = sorted(
    os.path.relpath(str(path), str(folder))
    for path in folder.rglob("*")
    if path.is_file()
  )
  return {
    name: sha256_file(folder / name)
    for name in names
    if name not in _NOT_SUMMED and not _is_hidden(name)
  }


def _is_hidden(name: str) -> bool:
  return any(part.startswith(".") for part in pathlib.PurePath(name).parts)


def _list_files(manifest: FileSums) -> Mapping[str, str]:
  return manifest.get("files", {})


def read_sound_manifest(
  folder: Path,
  schema: Any = FileSums,
  *,
  task: str,
  list_files: Callable[[Any], Mapping[str, str | None]] = _list_files,
) -> dict[str, Any] | None:
  """Reads the manifest of a finished folder, and compares its files.

  Those that are damaged are told of on standard error and deleted, and so is
  the manifest: nobody takes the folder for a finished one.

  Args:
    folder: that a verb writes.
    schema: of the manifest.
    task: what is told to be done again.
    list_files: SHA-256 by name, of a manifest; None is not compared.

  Returns:
    The manifest; None where the folder is not finished, or not sound.
  """
  path = folder / MANIFEST_FILE
  if not path.is_file():
    return None
  try:
    manifest = read_json(path, schema)
    sums = list_files(manifest)
  except InputError as error:
    tell_of_damage(task, error)
    path.unlink()
    return None
  sound = [_is_sound(folder / name, sums[name], task) for name in sums]
  if all(sound):
    return manifest
  path.unlink()
  return None


def _is_sound(path: Path, sha256: str | None, task: str) -> bool:
  """Compares a file with its checksum; a damaged one is told of and deleted."""
  try:
    if sha256 is not None:
      check_file(path, sha256)
  except InputError as error:
    tell_of_damage(task, error)
    if path.is_file():
      path.unlink()
    return False
  return True


def tell_of_damage(task: str, error: InputError) -> None:
  """Says on standard error what is damaged and will be made again."""
  what = str(error).partition(";")[0]
  print(f"xqg: {task}: making it again: {what}", file=sys.stderr)
