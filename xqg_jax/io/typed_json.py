"""JSON decoded by a declared schema: one error line names file and field.

Every JSON that the package reads back has a schema beside the noun that owns
the file: a `TypedDict` whose types `msgspec` checks. What is decoded stays the
plain dict that it is, with the fields that its schema does not name: the
configurations of other programs have many, and newer versions of ours may.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, NotRequired, TypedDict

import msgspec

from xqg_jax.errors import InputError

# Numbers in files and settings; sizes are no more than a float64 tells apart.
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
Seed = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
# What a file notes of the place of another.
PathText = Annotated[str, msgspec.Meta(pattern=r"^[^\x00]+$", max_length=4096)]

_MEND = "write it again"
_BOM = b"\xef\xbb\xbf"
_WORDS = {
  "int": "a whole number",
  "float": "a number",
  "str": "text",
  "bool": "true or false",
  "array": "a list",
  "object": "an object",
  "null": "null",
}
_PLACE = re.compile(r"(?P<what>.*?)(?: - at `(?P<place>.*)`)?", re.DOTALL)


class Versioned(TypedDict):
  """What is read of a file before its version says how to read the rest."""

  format_version: NotRequired[Any]


def decode_json(
  content: bytes | str, schema: Any, *, where: object, mend: str = _MEND
) -> Any:
  """Decodes a JSON text and checks it against a schema.

  Args:
    content: the text; a byte order mark is passed over.
    schema: a `TypedDict`, or any other type that `msgspec` knows.
    where: the file, or file and line, for messages.
    mend: what helps, for messages.

  Raises:
    InputError: no JSON, or a value of another type, or a missing field.

  >>> decode_json('{"rows": 2}', dict[str, int], where="a.json")
  {'rows': 2}
  """
  try:
    if isinstance(content, str):
      content = content.encode()
    value = msgspec.json.decode(content.removeprefix(_BOM))
  except msgspec.ValidationError as error:  # a number of thousands of digits
    raise _find_field(content, schema, error, where, mend) from None
  except (msgspec.DecodeError, UnicodeError) as error:
    what = f"not valid JSON ({_reason(error, content)})"
    raise InputError(what, where=where, mend=mend) from None
  except RecursionError:
    what = "not valid JSON (nested too deeply)"
    raise InputError(what, where=where, mend=mend) from None
  return check_json(value, schema, where=where, mend=mend)


def check_json(
  value: Any, schema: Any, *, where: object, mend: str = _MEND
) -> Any:
  """Checks a decoded JSON value against a schema; see `decode_json`.

  >>> check_json({"rows": 2}, dict[str, int], where="a.json")
  {'rows': 2}
  """
  try:
    msgspec.convert(value, schema)
  except msgspec.ValidationError as error:
    raise _error(error, where, mend) from None
  except (RecursionError, UnicodeError) as error:
    is_deep = isinstance(error, RecursionError)
    what = "nested too deeply" if is_deep else "holds half a character"
    raise InputError(what, where=where, mend=mend) from None
  return value


def refuse_unknown(
  value: Mapping[str, Any], schema: type, *, where: object
) -> None:
  """Refuses fields that a schema does not name.

  For settings of ours that decide results: one that is passed over would
  change them without a word.

  Raises:
    InputError: such a field.
  """
  unknown = sorted(set(value) - set(schema.__annotations__))
  if unknown:
    raise InputError(
      f"unknown field {unknown[0]!r}",
      where=where,
      mend="read it with the version that wrote it",
    )


def _find_field(
  content: bytes | str,
  schema: Any,
  error: msgspec.ValidationError,
  where: object,
  mend: str,
) -> InputError:
  """The line about a number that no field can hold."""
  try:
    if isinstance(content, str):
      content = content.encode()
    msgspec.json.decode(content.removeprefix(_BOM), type=schema)
  except msgspec.ValidationError as found:  # names the field
    error = found
  return _error(error, where, mend)


def _reason(error: Exception, content: bytes | str) -> str:
  reason = str(error).removeprefix("JSON is malformed: ")
  # In the text itself, or as an escape without its other half.
  if isinstance(error, UnicodeEncodeError) or "surrogate" in reason:
    return "half a character"
  if "truncated" in reason:
    return "it ends too early"
  place = re.search(r"\(byte (\d+)\)$", reason)
  if place and isinstance(content, bytes):
    # A minus sign before Infinity is passed over.
    rest = content.removeprefix(_BOM)[int(place[1]) :]
    for name in (b"NaN", b"Infinity"):
      if rest.startswith(name):
        return f"{name.decode()} is no number of JSON"
  return reason


def _error(
  error: msgspec.ValidationError, where: object, mend: str
) -> InputError:
  """The line about one field, in words."""
  what, place = str(error), ""
  if found := _PLACE.fullmatch(what):
    what, place = found["what"], (found["place"] or "").removeprefix("$")
  what = re.sub(r"`([^`]*)`", lambda m: _name_types(m[1]), what)
  what = what.replace("Object missing required field", "lacks the field")
  what = what.replace(", got ", ", found ")
  what = what[:1].lower() + what[1:]
  if field := place.lstrip("."):
    what = f"{field}: {what}"
  return InputError(what, where=where, mend=mend)


def _name_types(types: str) -> str:
  """Words for the types of JSON; names of fields stay as they are.

  >>> _name_types("int | null")
  'a whole number or null'
  """
  return " or ".join(_WORDS.get(t, t) for t in types.split(" | "))
