"""Streaming reader of large JSON arrays, entry by entry."""

import gzip
import io
import json
from collections.abc import Iterator
from typing import Any, NoReturn

from xqg_jax.datasets.reading.source_files import damaged_gzip_as_input_error
from xqg_jax.errors import InputError
from xqg_jax.io.paths import Path

_BLOCK = 1 << 20
# An error this close to the end of what was read may be a cut token.
_LONGEST_TOKEN = 16


def read_json_array(
  path: Path,
) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields (`file:line`, object) for each entry; holds one entry in memory.

  Files whose name ends in `.gz` are decompressed.

  Raises:
    InputError: not an array of objects, a file that ends too early, or a
      damaged gzip file.
  """
  opener = gzip.open if path.suffix == ".gz" else open
  with (
    damaged_gzip_as_input_error(path),
    opener(path, "rt", encoding="utf-8") as file,
  ):
    window = _Window(file, path)
    window.expect("[")
    if window.take("]"):
      return
    while True:
      where, entry = window.decode()
      if not isinstance(entry, dict):
        raise InputError(
          f"found a JSON {type(entry).__name__}, expected an object",
          where=where,
          mend="check the file",
        )
      yield where, entry
      if window.take("]"):
        return
      window.expect(",")


class _Window:
  """The part of a text file that is not parsed yet, as far as it was read."""

  def __init__(self, file: io.TextIOBase, path: Path):
    self._file = file
    self._path = path
    self._decoder = json.JSONDecoder()
    self._text = ""
    self._start = 0
    self._line = 1

  @property
  def _where(self) -> str:
    return f"{self._path}:{self._line}"

  def _read_more(self) -> bool:
    # As much again as is held, so that a long entry is tried but a few times.
    held = self._text[self._start :]
    more = self._file.read(max(_BLOCK, len(held)))
    self._text, self._start = held + more, 0
    return bool(more)

  def _move_to(self, end: int) -> None:
    self._line += self._text.count("\n", self._start, end)
    self._start = end

  def _skip_blanks(self) -> bool:
    """Moves to the next character; False at the end of the file."""
    while True:
      rest = self._text[self._start : self._start + _BLOCK]
      blanks = len(rest) - len(rest.lstrip(" \t\r\n"))
      self._move_to(self._start + blanks)
      if blanks < len(rest):
        return True
      if not rest and not self._read_more():
        return False

  def take(self, character: str) -> bool:
    """Moves over the character if it comes next."""
    found = self._skip_blanks() and self._text[self._start] == character
    if found:
      self._start += 1
    return found

  def expect(self, character: str) -> None:
    """Moves over the character, which must come next."""
    if not self.take(character):
      has_more = self._start < len(self._text)
      self._fail(f"expected {character!r}", is_cut=not has_more)

  def decode(self) -> tuple[str, Any]:
    """Moves over one JSON value; returns where it began, and the value."""
    self._skip_blanks()
    where = self._where
    while True:
      try:
        value, end = self._decoder.raw_decode(self._text, self._start)
      except json.JSONDecodeError as error:
        is_cut = (
          error.msg.startswith("Unterminated string")
          or error.pos >= len(self._text) - _LONGEST_TOKEN
        )
        if is_cut and self._read_more():
          continue
        self._move_to(min(error.pos, len(self._text)))
        self._fail(error.msg, is_cut=is_cut)
      self._move_to(end)
      return where, value

  def _fail(self, what: str, *, is_cut: bool) -> NoReturn:
    if is_cut:
      what = f"the file ends too early, {what}"
    raise InputError(
      f"not a valid JSON array ({what})",
      where=self._where,
      mend="download or write it again",
    )
