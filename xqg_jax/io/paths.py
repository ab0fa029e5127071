"""Paths as users write them: local, with `~`, or a URL."""

import contextlib
import os
import pathlib
import re

from xqg_jax.errors import InputError

# One slash suffices: `gs:/bucket` is a URL that some program has shortened,
# and would else become a local folder named `gs:`.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(/?)(.*)", re.DOTALL)


def is_url(path: object) -> bool:
  """Whether a path says by which protocol it is reached.

  >>> is_url("gs://t5-data/pretrained_models"), is_url("/data/mt5")
  (True, False)
  """
  return _URL.match(str(path)) is not None


def split_url(path: object) -> tuple[str, str]:
  """The scheme of a URL and what follows it.

  >>> split_url("gs://models/mt5/")
  ('gs', 'models/mt5/')

  Raises:
    InputError: there is one slash where a URL has two.
  """
  match = _URL.fullmatch(str(path))
  if match is None or not match[2]:
    raise InputError(
      "a URL has two slashes after its scheme",
      where=path,
      mend="write gs://..., or ./... for a folder with that name",
    )
  return match[1].lower(), match[3]


def to_path(path: str | os.PathLike) -> pathlib.Path:
  """A path of this machine, `~` expanded.

  >>> to_path("file:///data/mt5")
  PosixPath('/data/mt5')

  Raises:
    InputError: it is the URL of a bucket.
  """
  text = os.fspath(path)
  if is_url(text):
    scheme, text = split_url(text)
    if scheme != "file":
      raise InputError(
        f"{scheme}:// is not supported here",
        where=path,
        mend="give a local path",
      )
  found = pathlib.Path(text)
  if text.startswith("~"):
    with contextlib.suppress(RuntimeError):  # `~name` of nobody here
      found = found.expanduser()
  # A folder named `~` is given as `./~`, of which pathlib drops the dot.
  return found.absolute() if str(found).startswith("~") else found


def absolute_path(path: str | os.PathLike) -> pathlib.Path:
  """A path of this machine from its root on, without `..`.

  What `..` means after a symbolic link is only known on the disk, so a path
  with one is resolved there.

  >>> absolute_path("/data/../store")
  PosixPath('/store')

  Raises:
    InputError: it is the URL of a bucket.
  """
  absolute = to_path(path).absolute()
  return absolute.resolve() if ".." in absolute.parts else absolute
