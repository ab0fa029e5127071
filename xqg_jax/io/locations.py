"""Locations on disk or in a bucket, by TensorStore.

TensorStore reads and writes `gs://` and `s3://` by itself, so buckets need no
further package.
"""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from typing import Any

from xqg_jax.errors import InputError
from xqg_jax.io.buckets import BucketPath
from xqg_jax.io.files import atomic_path
from xqg_jax.io.paths import absolute_path, to_path
from xqg_jax.io.tensor_storage import storage_context
from xqg_jax.io.typed_json import decode_json
from xqg_jax.io.urls import is_url

# One for all reads: arrays opened with it share connections and limits.
CONTEXT = storage_context()


@dataclasses.dataclass(frozen=True)
class Location:
  """A file or folder, by its absolute path or its URL."""

  path: str

  @classmethod
  def of(cls, path: str | os.PathLike) -> "Location":
    """Takes a path as users write it: relative, absolute, or a URL."""
    return cls(str(absolute_path(path)))

  def __str__(self) -> str:
    return self.path

  def __truediv__(self, name: str) -> "Location":
    return Location(f"{self.path}/{name}")

  @property
  def name(self) -> str:
    """The last part of the path."""
    return self.path.rpartition("/")[2]

  @property
  def parent(self) -> "Location":
    """The folder around it."""
    return Location(self.path.rpartition("/")[0])

  def __fspath__(self) -> str:
    return self.path

  @property
  def is_local(self) -> bool:
    """Whether it is a path of this machine."""
    return not is_url(self.path)

  def kvstore(self) -> dict[str, Any]:
    """TensorStore's specification of this folder.

    >>> Location.of("gs://models/mt5/checkpoint_5").kvstore()
    {'driver': 'gcs', 'bucket': 'models', 'path': 'mt5/checkpoint_5/'}
    """
    path = to_path(self.path)
    if isinstance(path, BucketPath):
      return path.kvstore()
    return {"driver": "file", "path": f"{path}/"}

  def read_bytes(self) -> bytes | None:
    """The content of a file, or None where there is none.

    Raises:
      InputError: there is something that cannot be read.
    """
    try:
      return to_path(self.path).read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
      return None
    except OSError as error:
      raise InputError(
        f"cannot be read ({error.strerror})",
        where=self,
        mend="check the path and your credentials",
      ) from None

  def list_names(self) -> list[str]:
    """Names of the files and folders in a folder; none if there is none."""
    return sorted(path.name for path in to_path(self.path).glob("*"))

  def read_json(self, schema: Any = object) -> Any:
    """The content of a JSON file, or None where there is none.

    Raises:
      InputError: it is not JSON, or does not fit the schema.
    """
    content = self.read_bytes()
    return None if content is None else decode_json(content, schema, where=self)

  def write_bytes(self, content: bytes) -> None:
    """Writes a file, all of it or nothing.

    Raises:
      InputError: it cannot be written, as on a full disk.
    """
    path = to_path(self.path)
    if isinstance(path, BucketPath):
      path.write_bytes(content)
      return
    try:
      with atomic_path(path) as partial:
        partial.write_bytes(content)
    except OSError as error:
      raise cannot_write(self, error) from None

  def write_json(self, value: Any) -> None:
    """Writes JSON as `files.write_json` does."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    self.write_bytes(f"{text}\n".encode())

  def delete(self) -> None:
    """Deletes a folder with all that is in it, if it is there."""
    path = to_path(self.path)
    if isinstance(path, BucketPath):
      path.remove_tree()
    else:
      shutil.rmtree(path, ignore_errors=True)

  @contextlib.contextmanager
  def replace(self) -> Iterator["Location"]:
    """Yields where to write a folder that shall be here when it is whole.

    A bucket cannot rename: there it is written in place, and what is written
    last has to tell that it is whole.
    """
    self.delete()
    if not self.is_local:
      yield self
      return
    with atomic_path(self.path) as partial:
      yield Location.of(partial)


def cannot_write(where: object, error: Exception) -> InputError:
  """The error of a write that failed, most often of a full disk."""
  return InputError(
    f"cannot be written ({str(error).splitlines()[0]})",
    where=where,
    mend="make room and run the same command again",
  )


def relate_location(path: str | os.PathLike, folder: str | os.PathLike) -> str:
  """What a folder's manifest notes of another folder, or of a URL.

  A path counts from the folder, so that both can be moved together; that of
  another disk or bucket does not.

  >>> relate_location("/data/store", "/data/views/mean")
  '../../store'
  >>> relate_location("gs://bucket/store", "/data/views/mean")
  'gs://bucket/store'
  """
  there, here = absolute_path(path), absolute_path(folder)
  if isinstance(there, BucketPath):
    return there.relate(here) if isinstance(here, BucketPath) else str(there)
  if isinstance(here, BucketPath):
    return str(there.resolve())
  return os.path.relpath(there.resolve(), here.resolve())


def find_location(noted: str, folder: str | os.PathLike) -> Location:
  """Where that lies which `relate_location` noted in a folder's manifest.

  >>> str(find_location("../../store", "/data/views/mean"))
  '/data/store'
  """
  if is_url(noted) or noted.startswith("/"):
    return Location.of(noted)
  return Location.of((absolute_path(folder).resolve() / noted).resolve())
