"""Passages: TSV and JSONL files, read and written.

Readers stream, name file and line of whatever is wrong, and accept `.gz`.
"""

import dataclasses
import io
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from xqg_jax.data.ids import SeenIds, check_id
from xqg_jax.data.json_lines import (
  check_text,
  get_id,
  get_text,
  read_json_lines,
)
from xqg_jax.data.passage_tsv import read_rows, write_rows
from xqg_jax.errors import InputError
from xqg_jax.io.files import read_lines
from xqg_jax.io.paths import Path, to_path


@dataclasses.dataclass(frozen=True, slots=True)
class Passage:
  """The unit retrieved: a block of text, about 100 words, with its title."""

  passage_id: str
  text: str
  title: str = ""


def read_passages(
  path: str | os.PathLike,
  *,
  on_empty: Callable[[str, Passage], object] | None = None,
) -> Iterator[Passage]:
  """Streams passages from DPR TSV (`id, text, title`) or JSONL, in file order.

  TSV: as `passage_tsv.read_rows` takes it, with or without a header.
  JSONL: `docid`, `text`, `title`. The format follows the suffix
  (`.tsv`, `.jsonl`, each also with `.gz`).

  Args:
    path: the file, or a folder of such files, taken in order of name.
    on_empty: told `file:line` and passage where a text is empty; the passage
      is then left out.

  Raises:
    InputError: file missing or empty, a malformed line, an empty text without
      `on_empty`, or an id that appears twice; the message names file and line.
  """
  seen, is_empty = SeenIds(), True
  for file in list_passage_files(path):
    is_tsv = file.name.endswith((".tsv", ".tsv.gz"))
    parse = _parse_tsv_passages if is_tsv else _parse_json_passages
    for where, passage in parse(file):
      is_empty = False
      if not seen.add(passage.passage_id):
        raise InputError(
          f"passage id {passage.passage_id!r} appears twice",
          where=where,
          mend="give each passage an id of its own",
        )
      if passage.text.strip():
        yield passage
      elif on_empty is not None:
        on_empty(where, passage)
      else:
        raise InputError(
          f"passage {passage.passage_id!r} has an empty text",
          where=where,
          mend="remove the line or fill in its text",
        )
  if is_empty:
    raise InputError("no passages in it", where=path, mend="check the file")


_PASSAGE_SUFFIXES = (".tsv", ".jsonl", ".tsv.gz", ".jsonl.gz")


def list_passage_files(path: str | os.PathLike) -> list[Path]:
  """The files of passages in a folder in order of name, or the one itself.

  Raises:
    InputError: a folder without any, or a name of another form.
  """
  path = to_path(path)
  files = sorted(path.iterdir()) if path.is_dir() else [path]
  files = [file for file in files if file.name.endswith(_PASSAGE_SUFFIXES)]
  if files:
    return files
  if path.is_dir():
    what = "no file of passages in the folder"
  else:
    end = pathlib.PurePath(path.name.removesuffix(".gz")).suffix
    what = f"cannot tell the format of passages from the suffix {end!r}"
  raise InputError(
    what, where=path, mend="use .tsv or .jsonl, optionally with .gz"
  )


def _parse_tsv_passages(path: Path) -> Iterator[tuple[str, Passage]]:
  for where, fields in read_rows(read_lines(path, ends="\n")):
    passage_id, text, title = fields
    yield where, Passage(check_id(passage_id, "passage", where), text, title)


def _parse_json_passages(path: Path) -> Iterator[tuple[str, Passage]]:
  for where, row in read_json_lines(path):
    yield where, to_passage(row, where)


def to_passage(row: Mapping[str, Any], where: str) -> Passage:
  """Reads a passage from `{"docid", "text"}`, and its `title` if there is one.

  Raises:
    InputError: no `docid` or no `text`, or one that is no text.
  """
  return Passage(
    passage_id=get_id(row, "docid", where, kind="passage"),
    text=get_text(row, "text", where),
    title=check_text(row.get("title") or "", "title", where),
  )


def write_passages(file: io.TextIOBase, passages: Iterable[Passage]) -> int:
  """Writes DPR TSV with its header to an open file; returns the row count."""
  return write_rows(file, ((p.passage_id, p.text, p.title) for p in passages))


def from_passage(passage: Passage) -> dict[str, str]:
  """A passage as `{"docid", "title", "text"}`."""
  return {
    "docid": passage.passage_id,
    "title": passage.title,
    "text": passage.text,
  }
