"""Claims on output folders, local or in a bucket, by several processes."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from xqg_jax.io.claims import claim_output_dir, lock_folder
from xqg_jax.io.locations import Location
from xqg_jax.io.paths import to_path
from xqg_jax.runtime.processes import is_first_process, wait_for_all


@contextlib.contextmanager
def claim_together(
  folder: Location, *, stage: str, arguments: Mapping[str, Any]
) -> Iterator[None]:
  """Claims a folder for all processes of a run, and keeps others from it.

  The first process claims it before the others, and ends when they have.

  Raises:
    InputError: the folder holds something else, or another run writes it.
  """
  if is_first_process():
    claim_output_dir(folder, stage=stage, arguments=arguments)
  wait_for_all(f"claim {folder}")
  claim_output_dir(folder, stage=stage, arguments=arguments)
  with _lock(folder):
    yield
  wait_for_all(f"end {folder}")


def _lock(folder: Location) -> contextlib.AbstractContextManager[None]:
  name = ".lock" if is_first_process() else f".lock-{jax.process_index()}"
  return lock_folder(to_path(folder), name)
