"""Claims on output folders: one run each, resumed by the same command."""

import contextlib
import fcntl
import fnmatch
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, TypedDict

from xqg_jax.errors import InputError
from xqg_jax.io.buckets import BucketPath
from xqg_jax.io.files import format_json, partial_path, read_json
from xqg_jax.io.leases import folder_is_locked, hold_lease
from xqg_jax.io.paths import Path, to_path

# What a run writes first, what its settings were, and what it writes last.
RUN_FILE = "run.json"
OPERATIVE_CONFIG = "operative_config.gin"
MANIFEST_FILE = "manifest.json"


class RunClaim(TypedDict):
  """Contents of `run.json`: which verb writes a folder, and how."""

  stage: str
  arguments: dict[str, Any]


def claim_output_dir(
  output_dir: str | os.PathLike, *, stage: str, arguments: Mapping[str, Any]
) -> Path:
  """Claims `output_dir` for this run, or resumes the same run there.

  Args:
    output_dir: the folder; created when absent.
    stage: the verb that writes there.
    arguments: JSON-able arguments that decide the bytes written.

  Returns:
    The folder. It holds `run.json` with stage and arguments.

  Raises:
    InputError: the folder already holds something else.
  """
  folder = to_path(output_dir)
  claim = json.loads(
    json.dumps({"stage": stage, "arguments": dict(arguments)}, default=str)
  )
  run_file = folder / RUN_FILE
  if not run_file.exists():
    is_free = not folder.exists() or _is_empty(folder)
    # Another process may have claimed and filled it just now.
    if not is_free and not run_file.exists():
      raise InputError(
        "output folder is not empty and holds no run of this stage",
        where=folder,
        mend="choose another OUTPUT_DIR",
      )
    write_once(run_file, format_json(claim))
  check_same_run(read_json(run_file, RunClaim), claim, where=folder)
  return folder


def write_once(path: Path, text: str) -> None:
  """Writes a file atomically; of several processes the first one wins."""
  if isinstance(path, BucketPath):
    path.write_if(text.encode(), known=None)
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = partial_path(path.with_name(f"{path.name}.{uuid.uuid4().hex}"))
  try:
    partial.write_text(text, encoding="utf-8")
    try:
      os.link(partial, path)
    except FileExistsError:
      return
    except OSError:  # a file system without hard links
      partial.replace(path)
  finally:
    partial.unlink(missing_ok=True)


def _is_empty(folder: Path) -> bool:
  """Whether nothing is in a folder but what claims begin with."""
  begun = f".{RUN_FILE}*.partial"
  return folder.is_dir() and all(
    fnmatch.fnmatch(path.name, begun) for path in folder.iterdir()
  )


def check_same_run(
  found: Mapping[str, Any], claim: Mapping[str, Any], *, where: object
) -> None:
  """Compares what a folder's run file says with what wants to write there.

  Raises:
    InputError: it was another stage, or had other arguments.
  """
  if found == claim:
    return
  if found.get("stage") != claim["stage"]:
    what = f"output folder already holds a run of `{found.get('stage')}`"
  else:
    old, new = found.get("arguments", {}), claim["arguments"]
    names = [k for k in {**old, **new} if old.get(k) != new.get(k)]
    what = f"output folder already holds a run with another {', '.join(names)}"
  raise InputError(
    what, where=where, mend="choose another OUTPUT_DIR or delete the folder"
  )


@contextlib.contextmanager
def lock_folder(folder: Path, name: str = ".lock") -> Iterator[None]:
  """Keeps a second process from writing the same folder.

  The lock goes with the process, however that ends; in a bucket as
  `leases.hold_lease` says.

  Args:
    folder: what is to be written.
    name: of the lock; the processes of one run have one each.

  Raises:
    InputError: another process holds the lock.
  """
  if isinstance(folder, BucketPath):
    with hold_lease(folder / name):
      yield
    return
  with open(folder / name, "w") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise folder_is_locked(folder) from None
    yield
