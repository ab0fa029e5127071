"""Settings checked against declared types, before a stage starts.

A setting goes to a parameter of a function or class, whose annotation says
what it takes. All that a configuration sets is looked at here, so that a stage
meets no value of another type: a number that is text, a list that is a number.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, get_type_hints

from xqg_jax.cli.setting_types import Misfit, Reference, fit
from xqg_jax.errors import InputError

_MACRO = "gin.macro"


def check_settings(given: Mapping[str, str]) -> None:
  """Checks every value of the parsed configuration; mends what it can.

  A lone text where a list of texts is meant becomes a list of one.

  Args:
    given: the values of the command line by name; messages call them so.

  Raises:
    InputError: a value that its parameter does not take.
  """
  for (scope, selector), values in list(_config().items()):
    if selector == _MACRO:
      continue
    hints = _read_hints(selector)
    for name, value in list(values.items()):
      if name in hints:
        label = ".".join([*selector.split(".")[-2:], name])
        key = f"{scope}/{selector}.{name}" if scope else f"{selector}.{name}"
        _check(value, hints[name], label=label, key=key, given=given)


def _config() -> Mapping[tuple[str, str], dict[str, Any]]:
  """What is bound, by (scope, selector): gin tells it to no one else."""
  from gin import config

  return config._CONFIG


def _read_hints(selector: str) -> dict[str, Any]:
  """The annotations of what a selector names; none where it has none."""
  import gin

  configurable = gin.get_configurable(selector)
  with contextlib.suppress(NameError, TypeError):
    return get_type_hints(configurable, include_extras=True)
  return {}


def _check(
  value: Any, hint: Any, *, label: str, key: str, given: Mapping[str, str]
) -> None:
  """Checks one value; binds it anew where it was mended."""
  import gin

  while _is_macro(value):
    label = "/".join(value.scopes)
    key = f"{label}/{_MACRO}.value"
    found = _config().get((label, _MACRO), {})
    if "value" not in found:  # unset, of which gin tells itself
      return
    value = found["value"]
  names = [name for name in given if f".{label}".endswith(f".{name}")]
  where = f"--gin.{names[0]}" if names else label
  try:
    fitted = fit(_resolve(value), hint)
  except Misfit as misfit:
    raise InputError(
      misfit.found, where=f"{where}{misfit.place}", mend=misfit.wanted
    ) from None
  if isinstance(value, str) and not isinstance(fitted, str):
    gin.bind_parameter(key, fitted)


def _is_macro(value: Any) -> bool:
  from gin import config

  if not isinstance(value, config.ConfigurableReference):
    return False
  configurable: Any = value.configurable
  return configurable.selector in (_MACRO, "gin.constant")


def _resolve(value: Any) -> Any:
  """A value with what `fit` needs to know in the place of gin's references."""
  from gin import config

  if isinstance(value, Mapping):
    return {_resolve(k): _resolve(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return type(value)(map(_resolve, value))
  if not isinstance(value, config.ConfigurableReference):
    return value
  if _is_macro(value):
    bound = _config().get(("/".join(value.scopes), _MACRO), {})
    return _resolve(bound["value"]) if "value" in bound else Reference(None, "")
  configurable: Any = value.configurable
  wrapped = configurable.wrapped
  kind = wrapped if isinstance(wrapped, type) else None
  return Reference(kind, repr(value), is_made=value.evaluate)


def list_hints() -> Iterator[tuple[str, Any]]:
  """Names and annotations of all parameters that are bound."""
  for (_, selector), values in _config().items():
    hints = _read_hints(selector)
    for name in values:
      if selector != _MACRO and name in hints:
        yield f"{selector}.{name}", hints[name]
