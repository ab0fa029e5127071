"""Copies of models in buckets, kept in a local cache.

Weights are mapped from local files, so the files of a model in Hugging Face's
form or ours are copied first; T5X's checkpoints are read where they are.
"""

import pathlib
from collections.abc import Iterator
from typing import cast

from xqg_jax.checkpoints.steps import (
  PARAMS_ITEM,
  STEP_FOLDER,
  find_checkpoint,
)
from xqg_jax.errors import InputError
from xqg_jax.io.buckets import BucketPath
from xqg_jax.io.local_copies import copy_files

_SMALL_FILES = (".json", ".txt", ".model")
# The first form that is there is copied, and no other.
_WEIGHTS = (".safetensors", ".msgpack", ".bin")


def mirror_folder(source: BucketPath) -> pathlib.Path:
  """Copies a model from a bucket, unless an equal copy is there.

  Args:
    source: the folder of a model, or its `checkpoint_<step>`; of a MODEL_DIR
      the newest step is copied.

  Returns:
    The local copy of the folder, or of the step in it.

  Raises:
    InputError: nothing there, or it cannot be read.
  """
  if not source.is_dir():
    raise InputError(
      "cannot be read (no such folder)",
      where=source,
      mend="check the path and your credentials",
    )
  step = cast(BucketPath | None, find_checkpoint(source))
  if step is None:
    files = list(_find_files(source, with_weights=True))
    return copy_files(files, source)
  files = [*_find_files(step.parent, with_weights=False)]
  files += (step / PARAMS_ITEM).walk_files()
  return copy_files(files, step.parent) / step.name


def _find_files(
  folder: BucketPath, *, with_weights: bool
) -> Iterator[BucketPath]:
  """Configuration, tokenizer and weights, in the folder and one level below."""
  paths = list(folder.iterdir())
  suffixes = {path.suffix for path in paths}
  weights = next((form for form in _WEIGHTS if form in suffixes), None)
  for path in paths:
    is_small = path.suffix in _SMALL_FILES
    if is_small or (with_weights and path.suffix == weights):
      yield path
    elif (
      not (path.suffix or STEP_FOLDER.fullmatch(path.name)) and path.is_dir()
    ):
      yield from _find_files(path, with_weights=with_weights)
