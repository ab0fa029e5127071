"""JSON Lines: typed fields, and file and line in every error."""

import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from xqg_jax.data.ids import check_id
from xqg_jax.errors import InputError
from xqg_jax.io.files import parse_json, read_lines

_HALF = re.compile("[\ud800-\udfff]")


def read_json_lines(
  path: str | os.PathLike,
) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields (`file:line`, object) for each non-blank line of a JSONL file.

  Raises:
    InputError: file missing, or a line that is not a JSON object.
  """
  for where, line in read_lines(path):
    if not line.strip():
      continue
    row = parse_json(line, where=where, mend="write one JSON object a line")
    if not isinstance(row, dict):
      raise InputError(
        f"found a JSON {type(row).__name__}, expected an object",
        where=where,
        mend="write one JSON object a line",
      )
    yield where, row


def get_field(row: Mapping[str, Any], name: str, where: str) -> Any:
  """Reads a required field.

  Raises:
    InputError: the field is absent.
  """
  if name not in row:
    raise InputError(
      f"the field {name!r} is missing (found {', '.join(row) or 'none'})",
      where=where,
      mend=f"add {name!r}",
    )
  return row[name]


def get_text(row: Mapping[str, Any], name: str, where: str) -> str:
  """Reads a required field that has to be a string.

  Raises:
    InputError: the field is absent or is no string.
  """
  return check_text(get_field(row, name, where), name, where)


def check_text(value: Any, name: str, where: str) -> str:
  """Returns the value of the field `name`, which must be a string.

  Raises:
    InputError: it is none, or holds half of a character: one of the two
      halves that JSON may write characters beyond U+FFFF in. Such a string
      can neither be written to a file nor be tokenized.
  """
  if isinstance(value, str):
    half = None if value.isascii() else _HALF.search(value)
    if half is None:
      return value
    raise InputError(
      f"{name!r} holds half a character ({half[0]!a})",
      where=where,
      mend="write characters beyond U+FFFF as two halves, or as themselves",
    )
  raise InputError(
    f"{name!r} is {json.dumps(value):.40}, not a string",
    where=where,
    mend=f'write "{name}": "..."',
  )


def get_id(row: Mapping[str, Any], name: str, where: str, *, kind: str) -> str:
  """Reads a required field that has to be an id: a string or a whole number.

  Raises:
    InputError: the field is absent, is neither, or is no id of a `kind`
      (passage, question) that TREC files can hold.
  """
  return to_id(get_field(row, name, where), name, where, kind=kind)


def to_id(value: Any, name: str, where: str, *, kind: str) -> str:
  """The value of the field `name` as an id; see `get_id`."""
  is_number = isinstance(value, int) and not isinstance(value, bool)
  text = str(value) if is_number else check_text(value, name, where)
  return check_id(text, kind, where)


def get_objects(
  row: Mapping[str, Any], name: str, where: str
) -> list[Mapping[str, Any]]:
  """Reads a field that is a list of objects; absent or null: an empty list.

  Raises:
    InputError: it is anything else.
  """
  value = row.get(name)
  if value is None:
    return []
  if isinstance(value, list) and all(isinstance(v, dict) for v in value):
    return value
  raise InputError(
    f"{name!r} is not a list of objects",
    where=where,
    mend=f'write "{name}": [{{...}}, {{...}}]',
  )


def write_json_line(file: io.TextIOBase, row: Mapping[str, Any]) -> None:
  """Writes one JSON object and a newline."""
  file.write(json.dumps(row, ensure_ascii=False) + "\n")


def to_strings(value: Any, name: str, where: str) -> tuple[str, ...]:
  """Checks that the field `name` is a list of strings.

  Raises:
    InputError: it is not.
  """
  is_list = isinstance(value, list | tuple)
  if not is_list or not all(isinstance(v, str) for v in value):
    raise InputError(
      f"{name!r} is not a list of strings",
      where=where,
      mend=f'write "{name}": ["...", "..."]',
    )
  return tuple(check_text(v, name, where) for v in value)
