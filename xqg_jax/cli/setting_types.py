"""Types of settings: whether a value fits an annotation, told in words."""

import dataclasses
import math
import os
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

_UNIONS = (Union, types.UnionType)
_LISTS = (Sequence, list, tuple)
# How one is called, how several are, and an example of several.
_WORDS: dict[Any, tuple[str, str, str]] = {
  int: ("a whole number", "whole numbers", "(1, 2)"),
  float: ("a number", "numbers", "(0.1, 0.2)"),
  bool: ("True or False", "True or False", "(True, False)"),
  str: ("text", "texts", '("a", "b")'),
  os.PathLike: ("a path", "paths", '("a", "b")'),
  types.NoneType: ("None", "None", "(None,)"),
}


@dataclasses.dataclass(frozen=True)
class Reference:
  """What gin will put in the place of `@name()`, or of `@name`.

  Attributes:
    kind: the class of it; None: not known.
    text: as it is written.
    is_made: whether it is called, so that its result is put there.
  """

  kind: type | None
  text: str
  is_made: bool = True


class Misfit(Exception):
  """A value of another type than its annotation.

  Attributes:
    found: what the value is.
    wanted: what would fit.
    place: of the value within the setting, such as `[0]`.
  """

  def __init__(self, value: Any, hint: Any, place: str = ""):
    super().__init__(place)
    self.found = _describe(value)
    self.wanted = f"give {describe_hint(hint)}"
    self.place = place


def fit(value: Any, hint: Any) -> Any:
  """The value as its annotation wants it.

  Args:
    value: of a setting.
    hint: the parameter's annotation.

  Returns:
    The value itself, or a list of one where a lone text is given for several.

  Raises:
    Misfit: it is of another type.

  >>> fit("RR@10", Sequence[str])
  ('RR@10',)
  """
  origin = get_origin(hint)
  if isinstance(value, Reference) and value.is_made and value.kind is None:
    return value
  if origin in _UNIONS:
    return _fit_union(value, hint)
  if origin is Annotated:
    return _fit_bounds(value, hint)
  if origin is Literal:
    if not any(value == a and type(value) is type(a) for a in get_args(hint)):
      raise Misfit(value, hint)
    return value
  if origin in _LISTS:
    return _fit_list(value, hint)
  if origin in (Mapping, dict):
    return _fit_mapping(value, hint)
  if not _is_plainly(value, hint):
    raise Misfit(value, hint)
  return value


def _fit_union(value: Any, hint: Any) -> Any:
  """Fits what it is; a lone text becomes a list only if no text is taken."""
  misfits = []
  for part in sorted(
    get_args(hint), key=lambda part: get_origin(part) in _LISTS
  ):
    try:
      return fit(value, part)
    except Misfit as misfit:
      misfits.append(misfit)
  # The one that got furthest into the value says most.
  deepest = max(misfits, key=lambda misfit: len(misfit.place))
  if deepest.place:
    raise deepest
  raise Misfit(value, hint)


def _fit_bounds(value: Any, hint: Any) -> Any:
  base, *metas = get_args(hint)
  try:
    fit(value, base)
  except Misfit:
    raise Misfit(value, hint) from None
  bounds = [meta for meta in metas if isinstance(meta, msgspec.Meta)]
  if not all(_is_within(value, meta) for meta in bounds):
    raise Misfit(value, hint)
  return value


def _is_within(value: Any, meta: msgspec.Meta) -> bool:
  return (
    (meta.ge is None or value >= meta.ge)
    and (meta.gt is None or value > meta.gt)
    and (meta.le is None or value <= meta.le)
    and (meta.lt is None or value < meta.lt)
  )


def _fit_list(value: Any, hint: Any) -> Any:
  parts = get_args(hint)
  is_fixed = get_origin(hint) is tuple and Ellipsis not in parts
  if isinstance(value, str) and not is_fixed:
    try:
      return (fit(value, parts[0]),)
    except Misfit:
      raise Misfit(value, hint) from None
  is_list = isinstance(value, list | tuple)
  if not is_list or (is_fixed and len(value) != len(parts)):
    raise Misfit(value, hint)
  wanted = parts if is_fixed else [parts[0]] * len(value)
  fitted = [
    _fit_inside(item, part, f"[{place}]")
    for place, (item, part) in enumerate(zip(value, wanted, strict=True))
  ]
  return type(value)(fitted)


def _fit_mapping(value: Any, hint: Any) -> Any:
  if not isinstance(value, Mapping):
    raise Misfit(value, hint)
  key_hint, item_hint = get_args(hint)
  return {
    _fit_inside(key, key_hint, f"[{key!r}]"): _fit_inside(
      item, item_hint, f"[{key!r}]"
    )
    for key, item in value.items()
  }


def _fit_inside(value: Any, hint: Any, place: str) -> Any:
  try:
    return fit(value, hint)
  except Misfit as misfit:
    misfit.place = place + misfit.place
    raise


def _is_plainly(value: Any, hint: Any) -> bool:
  """Whether a value is of a class, a number being none of another kind."""
  if hint in (int, float):
    is_number = isinstance(value, int if hint is int else int | float)
    return is_number and not isinstance(value, bool) and _is_finite(value)
  if hint is None or hint is types.NoneType:
    return value is None
  if hint is os.PathLike:
    return isinstance(value, str | os.PathLike)
  if hint is Any or not isinstance(hint, type):
    return True
  if isinstance(value, Reference):
    return (
      value.is_made and value.kind is not None and _is_kind(value.kind, hint)
    )
  return isinstance(value, hint)


def _is_kind(kind: type, hint: type) -> bool:
  try:
    return issubclass(kind, hint)
  except TypeError:  # a protocol, of which only objects can be asked
    return True


def _is_finite(value: int | float) -> bool:
  """Whether a float64 can hold a number."""
  try:
    return math.isfinite(value)
  except OverflowError:
    return False


# ----------------------------------------------------------------------- words


def _describe(value: Any) -> str:
  if isinstance(value, str):
    return f"is text ({value!r:.40})"
  if isinstance(value, Reference):
    return f"is {value.text}"
  if isinstance(value, int) and not _is_finite(value):
    return "is a number of hundreds of digits"
  if isinstance(value, list | tuple | Mapping) and len(repr(value)) > 40:
    return f"is a {'table' if isinstance(value, Mapping) else 'list'}"
  return f"is {value!r}"


def describe_hint(hint: Any) -> str:
  """What an annotation takes, in words.

  >>> describe_hint(Mapping[str, str | os.PathLike])
  '{name: path}'
  >>> describe_hint(Sequence[int] | None)
  'a list of whole numbers, such as (1, 2), or None'
  """
  origin, parts = get_origin(hint), get_args(hint)
  if origin in _UNIONS:
    # A path is text, too: one word for both.
    is_path = os.PathLike in parts
    shown = [part for part in parts if not (is_path and part is str)]
    return " or ".join(map(describe_hint, shown)).replace(") or", "), or")
  if origin is Annotated:
    return describe_hint(parts[0]) + _describe_bounds(parts[1:])
  if origin is Literal:
    return " or ".join(f'"{part}"' for part in parts)
  if origin in _LISTS and parts:
    return _describe_list(hint)
  if origin in (Mapping, dict):
    return f"{{name: {describe_hint(parts[1]).removeprefix('a ')}}}"
  if hint is Any:
    return "anything"
  if hint in _WORDS:
    return _WORDS[hint][0]
  if origin is Callable or not isinstance(hint, type):
    return "a reference such as @module.name"
  return (
    f"a reference such as @{hint.__module__.split('.')[-1]}.{hint.__name__}()"
  )


def _describe_list(hint: Any) -> str:
  parts = [part for part in get_args(hint) if part is not Ellipsis]
  if get_origin(hint) is tuple and len(parts) > 1:
    return f"({', '.join(describe_hint(part) for part in parts)})"
  inner = parts[0]
  if get_origin(inner) is Annotated:
    inner = get_args(inner)[0]
  if os.PathLike in get_args(inner):
    inner = os.PathLike
  if inner not in _WORDS:
    return f"a list of {describe_hint(inner).removeprefix('a ')}"
  _, plural, example = _WORDS[inner]
  return f"a list of {plural}, such as {example}"


def _describe_bounds(metas: Sequence[Any]) -> str:
  said = ""
  for meta in metas:
    if isinstance(meta, msgspec.Meta):
      said += f" of {meta.ge} or more" if meta.ge is not None else ""
      said += f" above {meta.gt}" if meta.gt is not None else ""
      small = meta.lt is not None and meta.lt < 1e9
      said += f" below {meta.lt}" if small else ""
      small = meta.le is not None and meta.le < 1e9
      said += f" up to {meta.le}" if small else ""
  return said
