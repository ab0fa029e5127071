"""Paths as users write them: local, with `~`, or a URL."""

import contextlib
import os
import pathlib

from xqg_jax.io.buckets import BucketPath
from xqg_jax.io.urls import is_url, split_url

# A file or folder, wherever it lies.
Path = pathlib.Path | BucketPath


def to_path(path: str | os.PathLike) -> Path:
  """A path of this machine, `~` expanded, or one in a bucket.

  Every path that a user gives passes here.

  >>> to_path("file:///data/mt5"), to_path("gs://models/mt5/")
  (PosixPath('/data/mt5'), BucketPath('gs://models/mt5'))

  Raises:
    InputError: it is the URL of no kind of bucket.
  """
  if isinstance(path, BucketPath):
    return path
  text = os.fspath(path)
  if is_url(text):
    scheme, rest = split_url(text)
    if scheme != "file":
      return BucketPath(text)
    text = rest
  found = pathlib.Path(text)
  if text.startswith("~"):
    with contextlib.suppress(RuntimeError):  # `~name` of nobody here
      found = found.expanduser()
  # A folder named `~` is given as `./~`, of which pathlib drops the dot.
  return found.absolute() if str(found).startswith("~") else found


def absolute_path(path: str | os.PathLike) -> Path:
  """A path from its root on, without `..`; a URL is one.

  What `..` means after a symbolic link is only known on the disk, so a path
  with one is resolved there.

  >>> absolute_path("/data/../store")
  PosixPath('/store')

  Raises:
    InputError: it is the URL of no kind of bucket.
  """
  absolute = to_path(path).absolute()
  if isinstance(absolute, BucketPath):
    return absolute
  return absolute.resolve() if ".." in absolute.parts else absolute
