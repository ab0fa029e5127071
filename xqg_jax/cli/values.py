"""Values given on the command line, made gin syntax.

A value that is gin syntax from its first to its last character is taken as it
is, and everything else as text: `3rd_run`, `2024-11-29`, `a.tsv`. A setting
that is declared to be text, such as a path, takes whatever it is given:
`2024`, `None` and `@home/x` are good names of folders.
"""

import ast
import inspect
import os
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping

from xqg_jax.errors import InputError

_TEXT_TYPES = (str, os.PathLike)
_MACRO = re.compile(r"%[A-Za-z_][\w.]*")
# A parameter of a function that a macro sets, as in run files.
_PARAMETER = re.compile(r"^  (\w+) = %(\w+)$", re.MULTILINE)


def read_types(text: str, function: typing.Callable) -> dict[str, set[type]]:
  """The types that a function's annotations allow, by macro.

  Args:
    text: of the stage's run file, which gives parameters their macros.
    function: the stage's function.

  Returns:
    The plain types of each macro; macros of other functions, and parameters
    of other kinds (lists, classes), are absent.
  """
  hints = inspect.signature(function).parameters
  found = {}
  for parameter, macro in _PARAMETER.findall(text):
    if parameter in hints:
      allowed = set(_plain_types(hints[parameter].annotation))
      if None not in allowed:
        found[macro] = allowed
  return found


def _plain_types(annotation: object) -> Iterator[type | None]:
  """The types of a union; None for what is no plain type."""
  origin = typing.get_origin(annotation)
  if origin in (typing.Union, types.UnionType):
    for part in typing.get_args(annotation):
      yield from _plain_types(part)
  elif origin is typing.Annotated or origin is typing.Annotated:
    yield from _plain_types(typing.get_args(annotation)[0])
  elif origin is typing.Literal:
    yield from map(type, typing.get_args(annotation))
  else:
    yield (
      annotation if origin is None and isinstance(annotation, type) else None
    )


def to_gin(
  name: str, value: str, allowed: Iterable[type], macros: Iterable[str]
) -> str:
  """A value as gin reads it.

  Args:
    name: of the setting.
    value: as it was typed.
    allowed: its types, if they are known.
    macros: the names that a value `%NAME` may refer to.

  Raises:
    InputError: text for a setting that takes numbers alone.
  """
  allowed = set(allowed)
  has_none = types.NoneType in allowed
  if allowed and allowed <= {*_TEXT_TYPES, types.NoneType}:
    is_kept = has_none and value.strip() == "None"
    is_macro = _MACRO.fullmatch(value) and value[1:] in macros
    return value if is_kept or is_macro or _is_quoted(value) else repr(value)
  if _is_gin(value):
    return value
  if allowed and allowed <= {int, float, bool, types.NoneType}:
    raise InputError(
      f"{value!r:.40} is no {_name_types(allowed)}",
      where=f"--gin.{name}",
      mend="write it in digits, with a point for decimals"
      if allowed & {int, float}
      else "write True or False",
    )
  return repr(value)


def _name_types(allowed: set[type]) -> str:
  if float in allowed:
    return "number"
  return "whole number" if int in allowed else "True or False"


def _is_quoted(value: str) -> bool:
  try:
    return isinstance(ast.literal_eval(value.strip()), str)
  except (ValueError, SyntaxError, MemoryError, RecursionError):
    return False


def _is_gin(value: str) -> bool:
  """Whether the whole of a value, not only its beginning, is gin syntax."""
  from gin import config

  try:
    # As the one value of a dict nothing can come after it.
    parsed = config.parse_value(f"{{0: {value}\n}}")
  except SyntaxError:
    return False
  except ValueError:  # a reference, resolved when the whole config is parsed
    return True
  return isinstance(parsed, Mapping) and len(parsed) == 1
