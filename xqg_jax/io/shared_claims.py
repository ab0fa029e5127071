"""Claims on output folders, local or in a bucket, by several processes."""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from xqg_jax.io.claims import (
  RUN_FILE,
  check_same_run,
  claim_output_dir,
  lock_folder,
)
from xqg_jax.io.locations import Location
from xqg_jax.runtime.processes import is_first_process, wait_for_all


def claim_location(
  folder: Location, *, stage: str, arguments: Mapping[str, Any]
) -> None:
  """Does what `claim_output_dir` does, in a bucket, too.

  Raises:
    InputError: the folder already holds something else.
  """
  if folder.is_local:
    claim_output_dir(folder, stage=stage, arguments=arguments)
    return
  claim = {"stage": stage, "arguments": dict(arguments)}
  claim = json.loads(json.dumps(claim, default=str))
  found = (folder / RUN_FILE).read_json()
  if found is None:
    (folder / RUN_FILE).write_json(claim)
  else:
    check_same_run(found, claim, where=folder)


@contextlib.contextmanager
def claim_together(
  folder: Location, *, stage: str, arguments: Mapping[str, Any]
) -> Iterator[None]:
  """Claims a folder for all processes of a run, and keeps others from it.

  The first process claims it before the others, and ends when they have. A
  bucket has no locks; there two runs write the same bytes to the same names.

  Raises:
    InputError: the folder holds something else, or another run writes it.
  """
  if is_first_process():
    claim_location(folder, stage=stage, arguments=arguments)
  wait_for_all(f"claim {folder}")
  claim_location(folder, stage=stage, arguments=arguments)
  with _lock(folder):
    yield
  wait_for_all(f"end {folder}")


def _lock(folder: Location) -> contextlib.AbstractContextManager[None]:
  if not folder.is_local:
    return contextlib.nullcontext()
  name = ".lock" if is_first_process() else f".lock-{jax.process_index()}"
  return lock_folder(pathlib.Path(os.fspath(folder)), name)
