"""Local cache of models that lie in buckets.

Weights are mapped from local files, so the files of a model in Hugging Face's
form or ours are copied first; T5X's checkpoints are read where they are.
"""

import hashlib
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

from etils import epath
from tqdm import tqdm

from xqg_jax.checkpoints.steps import PARAMS_ITEM, STEP_FOLDER
from xqg_jax.errors import InputError
from xqg_jax.io.files import atomic_path, find_cache_folder

_SMALL_FILES = (".json", ".txt", ".model")
# The first form that is there is copied, and no other.
_WEIGHTS = (".safetensors", ".msgpack", ".bin")


def mirror_folder(url: str | os.PathLike) -> pathlib.Path:
  """Copies a model from a bucket, unless an equal copy is there.

  Args:
    url: `gs://` and the folder of a model, or its `checkpoint_<step>`; of a
      MODEL_DIR the newest step is copied.

  Returns:
    The local copy of that folder, in `$XDG_CACHE_HOME/xqg_jax` or
    `~/.cache/xqg_jax`.

  Raises:
    InputError: nothing there, or it cannot be read.
  """
  try:
    source = epath.Path(url)
  except KeyError:
    raise InputError(
      "unknown kind of bucket", where=url, mend="use gs:// or s3://"
    ) from None
  key = hashlib.sha256(str(source).encode()).hexdigest()[:16]
  target = find_cache_folder() / key / source.name
  is_step = STEP_FOLDER.fullmatch(source.name) is not None
  try:
    if is_step:
      _copy(source.parent, target.parent, steps=[source])
    else:
      _copy(source, target, steps=_newest_step(source))
  except (OSError, ValueError, ImportError) as error:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    raise InputError(
      f"cannot be read ({lines[0]})",
      where=url,
      mend="check the path and your credentials",
    ) from None
  return target


def _newest_step(folder: epath.Path) -> list[epath.Path]:
  """The newest finished step of a MODEL_DIR, if it is one."""
  steps = [
    (int(match[1]), path)
    for path in folder.iterdir()
    if (match := STEP_FOLDER.fullmatch(path.name))
    and (path / PARAMS_ITEM).is_dir()
  ]
  return [max(steps)[1]] if steps else []


def _copy(
  source: epath.Path, target: pathlib.Path, *, steps: list[epath.Path]
) -> None:
  files = list(_find_files(source, with_weights=not steps))
  for step in steps:
    files += _walk(step / PARAMS_ITEM)
  wanted = {path: path.stat() for path in files}
  target.mkdir(parents=True, exist_ok=True)
  with tqdm(
    total=sum(stat.length for stat in wanted.values()),
    desc=f"copying {source.name}",
    unit="B",
    unit_scale=True,
  ) as progress:
    for path, stat in wanted.items():
      _copy_file(path, target / path.relative_to(source), stat)
      progress.update(stat.length)


def _find_files(
  folder: epath.Path, *, with_weights: bool
) -> Iterator[epath.Path]:
  """Configuration, tokenizer and weights, in the folder and one level below."""
  paths = sorted(folder.iterdir())
  suffixes = {path.suffix for path in paths}
  weights = next((form for form in _WEIGHTS if form in suffixes), None)
  for path in paths:
    is_small = path.suffix in _SMALL_FILES
    if is_small or (with_weights and path.suffix == weights):
      yield path
    elif path.suffix or STEP_FOLDER.fullmatch(path.name):
      continue
    elif path.is_dir():
      yield from _find_files(path, with_weights=with_weights)


def _walk(folder: epath.Path) -> Iterator[epath.Path]:
  for path in sorted(folder.iterdir()):
    if path.is_dir():
      yield from _walk(path)
    else:
      yield path


def _copy_file(source: epath.Path, target: pathlib.Path, stat: Any) -> None:
  """Copies a file with its time, by which a later call knows it again."""
  if target.exists():
    found = target.stat()
    if (found.st_size, int(found.st_mtime)) == (stat.length, int(stat.mtime)):
      return
  with atomic_path(target) as partial:
    with source.open("rb") as reader, partial.open("wb") as writer:
      shutil.copyfileobj(reader, writer, 2**24)
    if partial.stat().st_size != stat.length:
      raise OSError(f"{source.name} ended too early")
    os.utime(partial, (stat.mtime, stat.mtime))
