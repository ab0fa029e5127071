"""JSON Lines: typed fields, and file and line in every error."""

import io
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from xqg_jax.errors import InputError
from xqg_jax.io.files import read_lines


def read_json_lines(
  path: str | pathlib.Path,
) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields (`file:line`, object) for each non-blank line of a JSONL file.

  Raises:
    InputError: file missing, or a line that is not a JSON object.
  """
  for where, line in read_lines(path):
    if not line.strip():
      continue
    try:
      row = json.loads(line)
    except json.JSONDecodeError as error:
      raise InputError(
        f"not valid JSON ({error.msg} at column {error.colno})",
        where=where,
        mend="write one JSON object a line",
      ) from None
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
  """Refuses a value of the field `name` that is no string."""
  if isinstance(value, str):
    return value
  raise InputError(
    f"{name!r} is {json.dumps(value):.40}, not a string",
    where=where,
    mend=f'write "{name}": "..."',
  )


def get_id(row: Mapping[str, Any], name: str, where: str) -> str:
  """Reads a required field that has to be a string or a whole number.

  Raises:
    InputError: the field is absent or is neither.
  """
  value = get_field(row, name, where)
  is_number = isinstance(value, int) and not isinstance(value, bool)
  return str(value) if is_number else check_text(value, name, where)


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
  return tuple(value)
