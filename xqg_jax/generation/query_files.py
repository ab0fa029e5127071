"""Files of generated queries: shards with checksums, complete or absent.

part-00000-of-00018.jsonl.gz    one passage a line, released form
finished/part-00000-of-....json its checksum, and what else is to be known
"""

import dataclasses
import gzip
import io
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from xqg_jax.data.generated_queries import write_generated_queries
from xqg_jax.data.passages import Passage
from xqg_jax.errors import InputError
from xqg_jax.io.files import atomic_path, read_json, sha256_file, write_json

Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class QueryShards:
  """The shards of a folder.

  Attributes:
    folder: that they lie in.
    count: of the shards.
  """

  folder: pathlib.Path
  count: int

  def name(self, index: int) -> str:
    """File name of a shard, which says how many there are."""
    return f"part-{index:05d}-of-{self.count:05d}.jsonl.gz"

  def record_path(self, index: int) -> pathlib.Path:
    """Where the record of a finished shard lies."""
    stem = self.name(index).removesuffix(".jsonl.gz")
    return self.folder / "finished" / f"{stem}.json"

  def read_record(self, index: int) -> Record | None:
    """The record of a finished, undamaged shard; None where there is none."""
    try:
      record = read_json(self.record_path(index))
      is_same = sha256_file(self.folder / self.name(index)) == record["sha256"]
    except (InputError, KeyError, TypeError, FileNotFoundError):
      is_same = False
    if not is_same:
      # Other processes look for it.
      self.record_path(index).unlink(missing_ok=True)
    return record if is_same else None

  def write(
    self,
    index: int,
    rows: Iterable[tuple[Passage, Mapping[str, Sequence[str]]]],
    facts: Mapping[str, Any],
  ) -> Record:
    """Writes a shard, then its record.

    Args:
      index: of the shard.
      rows: passages with their queries by language.
      facts: for the record.
    """
    path = self.folder / self.name(index)
    with atomic_path(path) as partial:
      _write_gzip(partial, rows)
      digest = sha256_file(partial)
    record = {"index": index, "name": path.name, **facts, "sha256": digest}
    write_json(self.record_path(index), record)
    return record


def _write_gzip(
  path: pathlib.Path,
  rows: Iterable[tuple[Passage, Mapping[str, Sequence[str]]]],
) -> None:
  """Writes the released form; neither time nor name gets into the bytes."""
  with (
    open(path, "wb") as raw,
    gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed,
    io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as file,
  ):
    for passage, by_language in rows:
      write_generated_queries(file, passage, by_language)
