"""Full-disk errors as one line, also where a library wraps them."""

import contextlib
import errno
import logging
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from xqg_jax.errors import InputError
from xqg_jax.io.buckets import BucketPath
from xqg_jax.io.paths import Path

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_WORDS = tuple(os.strerror(number) for number in _FULL)


@contextlib.contextmanager
def tell_of_full_disk(folder: Path) -> Iterator[None]:
  """Turns the errors of a full disk into one line.

  Raises:
    InputError: the disk or the quota is full.
  """
  quiet = _FullDiskFilter()
  loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
  for logger in loggers:
    logger.addFilter(quiet)
  is_full = False
  try:
    yield
  except Exception as error:  # TensorStore and TensorFlow have own kinds.
    is_full = _is_full(error)
    if not is_full:
      raise
    free = shutil.disk_usage(_find_disk(folder)).free / 1e9
    raise InputError(
      f"the disk is full ({free:.1f} GB free)",
      where=folder,
      mend="free some space; the same command goes on where it stopped",
    ) from error
  finally:
    for logger in () if is_full else loggers:
      logger.removeFilter(quiet)


def _find_disk(folder: Path) -> pathlib.Path:
  """A folder on the disk that what goes to `folder` is written to."""
  if isinstance(folder, BucketPath):  # first written to a temporary file
    return pathlib.Path(tempfile.gettempdir())
  return next(p for p in (folder, *folder.absolute().parents) if p.is_dir())


class _FullDiskFilter(logging.Filter):
  """Drops the stack traces that Orbax's threads log for the same error.

  It stays when the disk is full: asyncio tells of a task when it is deleted.
  """

  def filter(self, record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not (isinstance(error, Exception) and _is_full(error))


def _is_full(error: Exception) -> bool:
  return getattr(error, "errno", None) in _FULL or any(
    word in str(error) for word in _FULL_WORDS
  )
