"""Passages: TSV and JSONL files, read and written.

Readers stream, name file and line of whatever is wrong, and accept `.gz`.
"""

import csv
import dataclasses
import io
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from xqg_jax.data.json_lines import (
  check_text,
  get_id,
  get_text,
  read_json_lines,
)
from xqg_jax.errors import InputError
from xqg_jax.io.files import read_lines
from xqg_jax.io.paths import to_path

_MAX_BITS = 2**28  # ids up to here are remembered in at most 32 MiB


class SeenIds:
  """Remembers ids; numbers, as the public corpora have them, take a bit each.

  >>> seen = SeenIds()
  >>> [seen.add(passage_id) for passage_id in ("7", "x", "07", "7", "x")]
  [True, True, True, False, False]
  """

  def __init__(self):
    self._bits = bytearray()
    self._others: set[str] = set()

  def add(self, passage_id: str) -> bool:
    """Whether the id is new."""
    number = int(passage_id) if passage_id.isdecimal() else _MAX_BITS
    if number >= _MAX_BITS or str(number) != passage_id:
      is_new = passage_id not in self._others
      self._others.add(passage_id)
      return is_new
    byte, bit = number >> 3, 1 << (number & 7)
    if byte >= len(self._bits):
      self._bits.extend(bytes(byte + 1 - len(self._bits)))
    is_new = not self._bits[byte] & bit
    self._bits[byte] |= bit
    return is_new


TSV_HEADER = ("id", "text", "title")


@dataclasses.dataclass(frozen=True, slots=True)
class Passage:
  """The unit retrieved: a block of text, about 100 words, with its title."""

  passage_id: str
  text: str
  title: str = ""


# ------------------------------------------------------------------ passages


def read_passages(
  path: str | pathlib.Path,
  *,
  on_empty: Callable[[str, Passage], object] | None = None,
) -> Iterator[Passage]:
  """Streams passages from DPR TSV (`id, text, title`) or JSONL, in file order.

  TSV: an optional header line, fields optionally quoted as in DPR's files.
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
      _check_passage(passage, seen, where)
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


def list_passage_files(path: str | pathlib.Path) -> list[pathlib.Path]:
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
    end = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    what = f"cannot tell the format of passages from the suffix {end!r}"
  raise InputError(
    what, where=path, mend="use .tsv or .jsonl, optionally with .gz"
  )


def _check_passage(passage: Passage, seen: SeenIds, where: str) -> None:
  if not seen.add(passage.passage_id):
    raise InputError(
      f"passage id {passage.passage_id!r} appears twice",
      where=where,
      mend="give each passage an id of its own",
    )
  try:
    f"{passage.passage_id} {passage.title} {passage.text}".encode()
  except UnicodeEncodeError as error:
    raise InputError(
      f"passage {passage.passage_id!r} holds half a character "
      f"({error.object[error.start]!a})",
      where=where,
      mend="write characters beyond U+FFFF as two halves, or as themselves",
    ) from None


def _parse_tsv_passages(path: pathlib.Path) -> Iterator[tuple[str, Passage]]:
  for number, (where, line) in enumerate(read_lines(path)):
    fields = tuple(_unquote(field) for field in line.split("\t"))
    if number == 0 and fields == TSV_HEADER:
      continue
    if len(fields) not in (2, 3):
      raise InputError(
        f"found {len(fields)} tab-separated fields, expected 3",
        where=where,
        mend="write id, text and title separated by single tabs",
      )
    yield where, Passage(*fields)


def _unquote(field: str) -> str:
  """Undoes CSV quoting, but leaves text that merely begins with a quote.

  >>> _unquote('"the ""Great"" Theatre"')
  'the "Great" Theatre'
  >>> _unquote('"Yes" and "no"')
  '"Yes" and "no"'
  """
  if len(field) < 2 or not (field[0] == field[-1] == '"'):
    return field
  inner = field[1:-1].replace('""', "\0")
  return field if '"' in inner else inner.replace("\0", '"')


def _parse_json_passages(path: pathlib.Path) -> Iterator[tuple[str, Passage]]:
  for where, row in read_json_lines(path):
    yield where, to_passage(row, where)


def to_passage(row: Mapping[str, Any], where: str) -> Passage:
  """Reads a passage from `{"docid", "text"}`, and its `title` if there is one.

  Raises:
    InputError: no `docid` or no `text`, or one that is no text.
  """
  return Passage(
    passage_id=get_id(row, "docid", where),
    text=get_text(row, "text", where),
    title=check_text(row.get("title") or "", "title", where),
  )


def write_passages(file: io.TextIOBase, passages: Iterable[Passage]) -> int:
  """Writes DPR TSV with its header to an open file; returns the row count."""
  writer = csv.writer(file, delimiter="\t", lineterminator="\n")
  writer.writerow(TSV_HEADER)
  count = 0
  for passage in passages:
    writer.writerow((passage.passage_id, passage.text, passage.title))
    count += 1
  return count


# ----------------------------------------------------------------- JSON lines


# ------------------------------------------------------------------ questions


def from_passage(passage: Passage) -> dict[str, str]:
  """A passage as `{"docid", "title", "text"}`."""
  return {
    "docid": passage.passage_id,
    "title": passage.title,
    "text": passage.text,
  }


# ---------------------------------------------------------- generated queries
