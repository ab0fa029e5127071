"""Generated queries: shards of JSON lines, one passage a line."""

import dataclasses
import functools
import io
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypedDict

from xqg_jax.data.json_lines import (
  get_field,
  get_id,
  read_json_lines,
  to_strings,
  write_json_line,
)
from xqg_jax.data.languages import get_language
from xqg_jax.data.passages import Passage, from_passage
from xqg_jax.errors import InputError
from xqg_jax.io.claims import MANIFEST_FILE, RUN_FILE
from xqg_jax.io.files import check_file, read_json
from xqg_jax.io.paths import Path, to_path
from xqg_jax.io.typed_json import PathText


@dataclasses.dataclass(frozen=True, slots=True)
class GeneratedQueries:
  """The generated queries of one passage, by language code."""

  passage_id: str
  queries: Mapping[str, tuple[str, ...]]


def list_shards(path: str | os.PathLike) -> list[Path]:
  """The JSONL files of a folder in order of name, or the one file itself.

  Those that `xqg generate` or `xqg filter` wrote are compared with their
  manifest; folders of others have none.

  Raises:
    InputError: nothing there, a run that is not finished, or a shard that is
      missing, too many, or not as it was written.
  """
  path = to_path(path)
  if not path.is_dir():
    return [path]
  shards = sorted((*path.glob("*.jsonl"), *path.glob("*.jsonl.gz")))
  if not shards:
    raise InputError(
      "no .jsonl or .jsonl.gz file in the folder",
      where=path,
      mend="check the path",
    )
  if (path / RUN_FILE).exists():
    _check_shards(path, shards)
  return shards


class _ShardSums(TypedDict):
  name: PathText
  sha256: str


class _Manifest(TypedDict):
  shards: list[_ShardSums]


def _check_shards(folder: Path, shards: Sequence[Path]) -> None:
  manifest = folder / MANIFEST_FILE
  if not manifest.exists():
    raise InputError(
      "a run that is not finished",
      where=folder,
      mend="run the same command there again",
    )
  noted = read_json(manifest, _Manifest)["shards"]
  sums = {shard["name"]: shard["sha256"] for shard in noted}
  for shard in shards:
    if shard.name not in sums:
      raise InputError(
        f"is not in {MANIFEST_FILE}", where=shard, mend="move it elsewhere"
      )
  for name, sha256 in sums.items():
    path = folder / name
    exists = isinstance(path, pathlib.Path) and path.exists()
    stamp = path.stat().st_mtime_ns if exists else 0
    _check_once(path, stamp, sha256)


@functools.lru_cache(maxsize=4096)
def _check_once(path: Path, modified: int, sha256: str) -> None:
  del modified  # part of the key: a file that changed is read again
  check_file(path, sha256, mend="run the same command there again to mend it")


def read_generated_queries(
  path: str | os.PathLike,
) -> Iterator[tuple[str, GeneratedQueries]]:
  """Streams generated queries of the released xQG4xDR form.

  One JSON object a line:
  `{"docid": ..., "generated_queries": {"ar": [...], ...}}`; `title` and
  `text` may stand there too and are not read. `path` is a file or a folder
  of shards.

  Yields:
    (`file:line`, the passage's queries).

  Raises:
    InputError: file missing or empty, a malformed line, or an unknown
      language.
  """
  count = 0
  for shard in list_shards(path):
    for where, row in read_json_lines(shard):
      count += 1
      yield where, _to_generated_queries(row, where)
  if not count:
    raise InputError(
      "no generated queries in it", where=path, mend="check the path"
    )


def _to_generated_queries(
  row: Mapping[str, Any], where: str
) -> GeneratedQueries:
  by_language = get_field(row, "generated_queries", where)
  if not isinstance(by_language, dict):
    raise InputError(
      "'generated_queries' is not an object of lists by language",
      where=where,
      mend='write "generated_queries": {"ar": ["...", "..."]}',
    )
  queries: dict[str, tuple[str, ...]] = {}
  for code, texts in by_language.items():
    language = get_language(code, where=where).code
    # A file may have `zh-Hans` and `zh-Hant`, or `ru` and `rus`.
    more = to_strings(texts, code, where)
    queries[language] = queries.get(language, ()) + more
  passage_id = get_id(row, "docid", where, kind="passage")
  return GeneratedQueries(passage_id, queries)


def write_generated_queries(
  file: io.TextIOBase, passage: Passage, queries: Mapping[str, Iterable[str]]
) -> None:
  """Writes one line of the released xQG4xDR form to an open file."""
  row = {
    **from_passage(passage),
    "generated_queries": {code: list(q) for code, q in queries.items()},
  }
  write_json_line(file, row)
