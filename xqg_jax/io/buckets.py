"""Paths in buckets, with the methods of pathlib, by way of TensorStore.

TensorStore reads and writes `gs://` and `s3://` by itself, so buckets need no
further package; it has a bucket in memory, `memory://`, for tests; and it
alone offers the write that succeeds only if nobody else has written, on which
claims and locks rest.
"""

import fnmatch
import functools
import io
import os
import pathlib
import posixpath
import shutil
from collections.abc import Callable, Iterator
from typing import IO, Any

from xqg_jax.errors import InputError
from xqg_jax.io.tensor_storage import open_storage
from xqg_jax.io.urls import split_url

_DRIVERS = {"gs": "gcs", "s3": "s3", "memory": "memory"}
# An answer is waited for so long, in seconds, and so much longer for content,
# in bytes a second; TensorStore itself asks again and again.
_PATIENCE, _SLOWEST = 120, 2**20
# The most that is read at once.
_LARGE = 2**32
# So much is read at a time.
_CHUNK = 2**24


@functools.total_ordering
class BucketPath:
  """A file or folder in a bucket, by its URL.

  It has those methods of `pathlib.Path` that a bucket can keep. What wants a
  path of this machine refuses it, in one line.
  """

  def __init__(self, url: str):
    """Takes a URL as users write it.

    Raises:
      InputError: no kind of bucket that can be reached.
    """
    scheme, rest = split_url(url)
    if scheme not in _DRIVERS:
      raise InputError(
        "unknown kind of bucket", where=url, mend="use gs:// or s3://"
      )
    parts = posixpath.normpath(f"/{rest}").lstrip("/")
    self._scheme = scheme
    self._pure = pathlib.PurePosixPath(parts)

  def __str__(self) -> str:
    return f"{self._scheme}://{'' if self._is_top else self._pure}"

  def __repr__(self) -> str:
    return f"BucketPath({str(self)!r})"

  def __fspath__(self) -> str:
    raise InputError(
      "a bucket is not supported here", where=self, mend="give a local path"
    )

  def __eq__(self, other: object) -> bool:
    return isinstance(other, BucketPath) and str(self) == str(other)

  def __lt__(self, other: "BucketPath") -> bool:
    return str(self) < str(other)

  def __hash__(self) -> int:
    return hash(str(self))

  # ------------------------------------------------------------------- names

  @property
  def _is_top(self) -> bool:
    return str(self._pure) == "."

  @property
  def is_in_memory(self) -> bool:
    """Whether it goes with the process."""
    return self._scheme == "memory"

  def _with(self, pure: pathlib.PurePosixPath) -> "BucketPath":
    return BucketPath(f"{self._scheme}://{pure}")

  def __truediv__(self, name: str | os.PathLike) -> "BucketPath":
    return self._with(self._pure / name)

  @property
  def name(self) -> str:
    """The last part."""
    return self._pure.name

  @property
  def stem(self) -> str:
    """The last part without its suffix."""
    return self._pure.stem

  @property
  def suffix(self) -> str:
    """The ending of the last part, with its dot."""
    return self._pure.suffix

  @property
  def suffixes(self) -> list[str]:
    """All endings of the last part, each with its dot."""
    return self._pure.suffixes

  @property
  def parent(self) -> "BucketPath":
    """The folder around it."""
    return self._with(self._pure.parent)

  def with_name(self, name: str) -> "BucketPath":
    """Its sibling of that name."""
    return self._with(self._pure.with_name(name))

  def relative_to(self, folder: "BucketPath") -> pathlib.PurePosixPath:
    """The path from a folder around it."""
    return self._pure.relative_to(folder._pure)

  @property
  def parents(self) -> list["BucketPath"]:
    """The folders around it, the nearest first."""
    return [self._with(folder) for folder in self._pure.parents]

  def absolute(self) -> "BucketPath":
    """Itself: a URL counts from the root."""
    return self

  def resolve(self) -> "BucketPath":
    """Itself: a bucket has no links."""
    return self

  def relate(self, folder: "BucketPath") -> str:
    """How it is reached from a folder: by a path in one bucket, else its URL.

    >>> BucketPath("gs://b/store").relate(BucketPath("gs://b/views/mean"))
    '../../store'
    """
    is_near = self._scheme == folder._scheme and (
      self.is_in_memory or self._pure.parts[:1] == folder._pure.parts[:1]
    )
    if not is_near:
      return str(self)
    return posixpath.relpath(f"/{self._pure}", f"/{folder._pure}")

  # ----------------------------------------------------------------- storage

  def kvstore(self) -> dict[str, Any]:
    """TensorStore's specification of this folder.

    >>> BucketPath("gs://models/mt5/checkpoint_5").kvstore()
    {'driver': 'gcs', 'bucket': 'models', 'path': 'mt5/checkpoint_5/'}
    """
    driver = _DRIVERS[self._scheme]
    text = "" if self._is_top else f"{self._pure}/"
    if driver == "memory":
      return {"driver": driver, "path": text}
    bucket, _, path = text.partition("/")
    return {"driver": driver, "bucket": bucket, "path": path}

  @functools.cached_property
  def _folder(self) -> Any:
    """What is below this path."""
    return self._do(lambda: open_storage(self.kvstore()), "opened")

  @property
  def _file(self) -> tuple[Any, str]:
    """Where this file lies, and its key there."""
    return self.parent._folder, self.name

  def _do(self, action: Callable[[], Any], what: str, size: int = 0) -> Any:
    """Waits for a bucket's answer, though not for ever.

    Args:
      action: what is asked; returns TensorStore's future.
      what: of the message.
      size: bytes that are moved.
    """
    try:
      return action().result(timeout=_PATIENCE + size / _SLOWEST)
    except TimeoutError:
      line = f"no answer within {_PATIENCE} s"
    except (ValueError, OSError) as error:
      line = str(error).splitlines()[0]
    raise InputError(
      f"cannot be {what} ({line})",
      where=self,
      mend="check the path, your credentials and the room that is left",
    )

  def _keys(self) -> list[str]:
    """Paths of all files below, from here on."""
    found = self._do(lambda: self._folder.list(), "listed")
    return sorted(key.decode() for key in found)

  def exists(self) -> bool:
    """Whether it is a file or a folder."""
    return self.is_file() or self.is_dir()

  def is_file(self) -> bool:
    """Whether there is a file of that name."""
    return not self._is_top and self.generation() is not None

  def is_dir(self) -> bool:
    """Whether there is a file below; a bucket knows no empty folders."""
    return bool(self._keys())

  def iterdir(self) -> Iterator["BucketPath"]:
    """Files and folders in a folder.

    Raises:
      FileNotFoundError: there is nothing.
    """
    names = sorted({key.partition("/")[0] for key in self._keys()})
    if not names:
      raise FileNotFoundError(f"{self}: no such folder")
    return (self / name for name in names)

  def glob(self, pattern: str) -> Iterator["BucketPath"]:
    """What lies in a folder and has a name like `pattern`."""
    names = sorted({key.partition("/")[0] for key in self._keys()})
    return (self / name for name in fnmatch.filter(names, pattern))

  def walk_files(self) -> Iterator["BucketPath"]:
    """All files below."""
    return (self / key for key in self._keys())

  def rglob(self, pattern: str) -> Iterator["BucketPath"]:
    """All files below that have a name like `pattern`."""
    return (
      path for path in self.walk_files() if fnmatch.fnmatch(path.name, pattern)
    )

  def mkdir(self, parents: bool = True, exist_ok: bool = True) -> None:
    """Nothing: a bucket has the folders of its files."""

  # ----------------------------------------------------------------- reading

  def generation(self) -> bytes | None:
    """What names this content of the file; None where there is none."""
    store, key = self._file
    found = self._do(lambda: store.read(key, byte_range=slice(0, 0)), "read")
    return None if found.state == "missing" else found.stamp.generation

  def read_bytes(self) -> bytes:
    """All of a file.

    Raises:
      FileNotFoundError: there is none.
    """
    store, key = self._file
    # A small request first: one that moves much may be waited for much longer.
    if self.generation() is not None:
      found = self._do(lambda: store.read(key), "read", _LARGE)
      if found.state != "missing":
        return found.value
    raise FileNotFoundError(f"{self}: no such file")

  def read_text(self, encoding: str = "utf-8") -> str:
    """All of a text file."""
    return self.read_bytes().decode(encoding)

  def open(
    self,
    mode: str = "r",
    encoding: str | None = None,
    newline: str | None = None,
  ) -> IO:
    """Opens a file for reading; what is written goes by `atomic_path`.

    Raises:
      FileNotFoundError: there is none.
    """
    if mode not in ("r", "rt", "rb"):
      raise ValueError(f"{self}: files in buckets are not opened to write")
    stream = io.BufferedReader(_BucketFile(self), _CHUNK)
    if "b" in mode:
      return stream
    return io.TextIOWrapper(stream, encoding or "utf-8", newline=newline)

  # ----------------------------------------------------------------- writing

  def write_bytes(self, content: bytes) -> None:
    """Writes a file, all of it or nothing."""
    store, key = self._file
    self._do(lambda: store.write(key, content), "written", len(content))

  def write_text(self, text: str, encoding: str = "utf-8") -> None:
    """Writes a text file, all of it or nothing."""
    self.write_bytes(text.encode(encoding))

  def write_if(self, content: bytes | None, known: bytes | None) -> bool:
    """Writes a file if it has not changed; says whether it did.

    Args:
      content: all of the file; None deletes it.
      known: the generation that it must have; None: there must be no file.
    """
    store, key = self._file
    if known is None:
      found = self._do(lambda: store.read(key, byte_range=slice(0, 0)), "read")
      if found.state != "missing":
        return False
      known = found.stamp.generation
    answer = self._do(
      lambda: store.write(key, content, if_equal=known), "written"
    )
    return answer.generation != b""

  def unlink(self, missing_ok: bool = False) -> None:
    """Deletes a file.

    Raises:
      FileNotFoundError: there is none, and that is not allowed.
    """
    if not missing_ok and not self.is_file():
      raise FileNotFoundError(f"{self}: no such file")
    store, key = self._file
    self._do(lambda: store.write(key, None), "deleted")

  def remove_tree(self) -> None:
    """Deletes all files below, if there are any."""
    import tensorstore

    below = tensorstore.KvStore.KeyRange()
    self._do(lambda: self._folder.delete_range(below), "deleted")

  # ------------------------------------------------------- copies of this disk

  def upload(self, source: pathlib.Path) -> None:
    """Writes what is in a local file or folder; the manifest goes last."""
    if source.is_file():
      self.write_bytes(source.read_bytes())
      return
    files = [path for path in source.rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda p: (p.name == "manifest.json", p)):
      (self / path.relative_to(source)).upload(path)

  def download(self, target: pathlib.Path) -> None:
    """Copies a file, or all files below, to a local path."""
    if self.is_file():
      target.parent.mkdir(parents=True, exist_ok=True)
      with self.open("rb") as reader, target.open("wb") as writer:
        shutil.copyfileobj(reader, writer, _CHUNK)
      return
    for path in self.walk_files():
      path.download(target / path.relative_to(self))


class _BucketFile(io.RawIOBase):
  """The bytes of a file in a bucket, in order."""

  def __init__(self, path: BucketPath):
    generation = path.generation()
    if generation is None:
      raise FileNotFoundError(f"{path}: no such file")
    self.name, self.mode = str(path), "rb"
    self._path = path
    self._generation = generation
    self._place = 0

  def readable(self) -> bool:
    return True

  def readinto(self, buffer: Any) -> int:
    found = self._read(self._place, self._place + len(buffer))
    buffer[: len(found)] = found
    self._place += len(found)
    return len(found)

  def _read(self, start: int, end: int) -> bytes:
    store, key = self._path._file
    for part in (slice(start, end), slice(start, None)):
      try:
        answer = store.read(key, byte_range=part)
        found = answer.result(timeout=_PATIENCE)
      except ValueError as error:  # a part that is not all there
        if "OUT_OF_RANGE" not in str(error):
          raise
        continue
      if found.stamp.generation != self._generation:
        raise InputError(
          "has changed while it was read",
          where=self._path,
          mend="run the same command again",
        )
      return found.value
    return b""
