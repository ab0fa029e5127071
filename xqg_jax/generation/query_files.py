"""Files of generated queries: shards with checksums, complete or absent.

part-00000-of-00018.jsonl.gz    one passage a line, released form
finished/part-00000-of-....json its checksum, and what else is to be known
"""

import gzip
import io
import os
from collections.abc import Iterable, Mapping, Sequence

from xqg_jax.data.generated_queries import write_generated_queries
from xqg_jax.data.passages import Passage
from xqg_jax.io.locations import Location
from xqg_jax.io.shard_job import FileRecord, Raw, Record, ShardJob, Work
from xqg_jax.io.typed_json import Count

Row = tuple[Passage, Mapping[str, Sequence[str]]]


class QueryRecord(FileRecord):
  """Of a finished shard of queries: what every verb notes that writes one."""

  num_passages: Count


class QueryShards(ShardJob[Raw, Work, tuple[Iterable[Row], Record]]):
  """Shards of generated queries; `make` yields rows and facts about them."""

  num_shards: int
  schema: type = QueryRecord

  def name_shard(self, index: int) -> str:
    """File name of a shard, which says how many there are."""
    return f"part-{index:05d}-of-{self.num_shards:05d}.jsonl.gz"

  def write(
    self, place: Location, made: tuple[Iterable[Row], Record]
  ) -> Record:
    """Writes the rows of a shard; returns the facts about them."""
    rows, facts = made
    _write_gzip(place, rows)
    return facts

  def size(self, record: Record) -> int:
    """Passages of a shard."""
    return record["num_passages"]


def _write_gzip(path: os.PathLike, rows: Iterable[Row]) -> None:
  """Writes the released form; neither time nor name gets into the bytes."""
  with (
    open(path, "wb") as raw,
    gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed,
    io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as file,
  ):
    for passage, by_language in rows:
      write_generated_queries(file, passage, by_language)
