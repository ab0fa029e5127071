"""Files that grow while a run goes on, on disk or in a bucket."""

import pathlib
import shutil
import tempfile
from collections.abc import Sequence

from xqg_jax.io.buckets import BucketPath
from xqg_jax.io.paths import Path


class GrowingFiles:
  """Files and folders that are appended to on disk.

  A bucket cannot append: there each is written anew, as a whole, when it is
  published.

  Attributes:
    folder: where to append to them.
  """

  def __init__(self, folder: Path, names: Sequence[str]):
    """Begins with what a folder or a bucket holds of these names."""
    self._bucket = folder if isinstance(folder, BucketPath) else None
    self._names = names
    self._published: dict[pathlib.Path, int] = {}
    if self._bucket is None:
      self.folder = pathlib.Path(folder)
      return
    self.folder = pathlib.Path(tempfile.mkdtemp())
    for name in names:
      (self._bucket / name).download(self.folder / name)
    old = self._list_files()
    self._published = {path: path.stat().st_mtime_ns for path in old}

  def publish(self) -> None:
    """Writes to the bucket what has changed since the last time."""
    if self._bucket is None:
      return
    files = {path: path.stat().st_mtime_ns for path in self._list_files()}
    for path, modified in files.items():
      if self._published.get(path) != modified:
        (self._bucket / path.relative_to(self.folder)).upload(path)
    for path in self._published.keys() - files.keys():
      (self._bucket / path.relative_to(self.folder)).unlink(missing_ok=True)
    self._published = files

  def _list_files(self) -> list[pathlib.Path]:
    found = [self.folder / name for name in self._names]
    found += [inner for path in found for inner in path.rglob("*")]
    return [path for path in found if path.is_file()]

  def close(self) -> None:
    """Publishes what is left."""
    if self._bucket is not None:
      self.publish()
      shutil.rmtree(self.folder)
