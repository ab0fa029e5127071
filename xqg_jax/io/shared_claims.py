"""Claims on output folders, local or in a bucket, by several processes."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from xqg_jax.io.claims import claim_output_dir, lock_folder
from xqg_jax.io.paths import Path, absolute_path
from xqg_jax.runtime.processes import is_first_process, wait_for_all


def claim_in_turn(
  folder: str | os.PathLike, *, stage: str, arguments: Mapping[str, Any]
) -> Path:
  """Claims a folder for all processes of a run, the first of them first.

  Returns:
    The folder.

  Raises:
    InputError: the folder holds something else.
  """
  if is_first_process():
    claim_output_dir(folder, stage=stage, arguments=arguments)
  wait_for_all(f"claim {absolute_path(folder)}")
  return claim_output_dir(folder, stage=stage, arguments=arguments)


@contextlib.contextmanager
def lock_together(folder: str | os.PathLike) -> Iterator[None]:
  """Keeps other runs from a folder until all processes are through with it.

  Raises:
    InputError: another run writes it.
  """
  path = absolute_path(folder)
  name = ".lock" if is_first_process() else f".lock-{jax.process_index()}"
  with lock_folder(path, name):
    yield
  wait_for_all(f"end {path}")


@contextlib.contextmanager
def claim_together(
  folder: str | os.PathLike, *, stage: str, arguments: Mapping[str, Any]
) -> Iterator[None]:
  """Claims a folder for all processes of a run, and keeps others from it.

  Raises:
    InputError: the folder holds something else, or another run writes it.
  """
  claim_in_turn(folder, stage=stage, arguments=arguments)
  with lock_together(folder):
    yield
