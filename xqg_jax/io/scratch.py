"""Scratch folders: what a job needs on the way, deleted at its end."""

import contextlib
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from xqg_jax.io.locations import Location


@contextlib.contextmanager
def open_scratch(folder: Location, name: str) -> Iterator[pathlib.Path]:
  """Yields a local folder for what is needed on the way, and deletes it.

  Args:
    folder: that is written; the scratch lies in it, unless it is a bucket.
    name: of the scratch; what a killed run left there is deleted, too.
  """
  with contextlib.ExitStack() as stack:
    if folder.is_local:
      scratch = pathlib.Path(folder, name)
      stack.callback(shutil.rmtree, scratch, ignore_errors=True)
    else:
      scratch = pathlib.Path(
        stack.enter_context(tempfile.TemporaryDirectory()), name
      )
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    yield scratch
