"""Failures of a command: one line and an exit code for errors and signals."""

import contextlib
import errno
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator

from xqg_jax.errors import InputError, NativeError, Stopped

BAD_INPUT = 2
_GOES_ON = "the same command goes on"

# What is wrong with a path, and how to mend it, by the system's error number.
_PATH_ERRORS = {
  errno.EACCES: ("permission denied", "ask for the right to it"),
  errno.EPERM: ("not permitted", "ask for the right to it"),
  errno.EROFS: ("the file system is read-only", "choose another place"),
  errno.ENOTDIR: ("a file stands where a folder is needed", "check the path"),
  errno.EISDIR: ("a folder stands where a file is needed", "check the path"),
  errno.EEXIST: ("something else is there already", "choose another path"),
  errno.ENOENT: ("no such file or folder", "check the path"),
  errno.ENAMETOOLONG: ("the name is too long", "choose a shorter one"),
  errno.ELOOP: ("symbolic links that lead to themselves", "check the path"),
  errno.EINVAL: ("not a name for a file", "choose another one"),
  errno.ENOTSUP: ("the file system cannot do that", "choose another place"),
  errno.EIO: ("the disk cannot be read or written", "check the disk"),
  errno.ESTALE: ("the file system is gone", "mount it again"),
  errno.EMFILE: ("too many open files", "raise the limit (ulimit -n)"),
  **{
    number: (
      f"cannot be written ({os.strerror(number)})",
      "make room and run the same command again",
    )
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
  },
}


class _Terminated(BaseException):
  """SIGTERM came."""


def describe(error: BaseException) -> tuple[str, int] | None:
  """The line and the exit code of an error; None for one of our own making.

  >>> describe(NotADirectoryError(errno.ENOTDIR, "Not a directory", "a/b"))
  ('error: a/b: a file stands where a folder is needed; check the path', 2)
  """
  # gin appends lines of its own to exceptions that pass through it.
  first = next(iter(str(error).splitlines()), "")
  if isinstance(error, InputError):
    return f"error: {first}", BAD_INPUT
  if isinstance(error, NativeError):
    return f"failed: {first}", 1
  if isinstance(error, Stopped):
    return first, 0
  if isinstance(error, KeyboardInterrupt):
    return f"interrupted; {_GOES_ON}", 128 + signal.SIGINT
  if isinstance(error, _Terminated):
    return f"stopped by SIGTERM; {_GOES_ON}", 128 + signal.SIGTERM
  if isinstance(error, OSError):
    return _describe_os_error(error)
  return None


def _describe_os_error(error: OSError) -> tuple[str, int] | None:
  # gin raises a copy that has the message alone.
  if error.errno is None and isinstance(error.__context__, OSError):
    error = error.__context__
  if error.errno not in _PATH_ERRORS:
    return None
  what, mend = _PATH_ERRORS[error.errno]
  where = error.filename2 or error.filename
  if where is None and error.errno not in (errno.ENOSPC, errno.EDQUOT):
    return None  # no path of a user's, as of a socket
  where = os.fsdecode(where) if isinstance(where, bytes) else where
  return f"error: {InputError(what, where=where, mend=mend)}", BAD_INPUT


@contextlib.contextmanager
def signals_and_warnings_as_lines() -> Iterator[None]:
  """Lets SIGTERM end the block as SIGINT does, and warnings be one line."""
  shown = warnings.showwarning
  warnings.showwarning = _show_warning
  is_ours = (
    threading.current_thread() is threading.main_thread()
    and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
  )
  if is_ours:
    signal.signal(signal.SIGTERM, _terminate)
  try:
    yield
  finally:
    warnings.showwarning = shown
    if is_ours:
      signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(*_: object) -> None:
  raise _Terminated


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
  line = " ".join(str(message).split())
  print(f"xqg: warning: {line}", file=sys.stderr)


def close_output() -> None:
  """Keeps Python from telling of a closed pipe when it exits."""
  with contextlib.suppress(OSError, ValueError):
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
