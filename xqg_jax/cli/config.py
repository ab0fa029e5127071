"""Configuration of a stage by gin: its file, files on top, single values."""

import contextlib
import difflib
import importlib
import importlib.util  # gin 0.5.0 uses it without importing it
import logging
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from xqg_jax.cli.moved_names import check_moved_names
from xqg_jax.cli.settings import check_settings
from xqg_jax.cli.values import read_types, to_gin
from xqg_jax.errors import InputError
from xqg_jax.io.claims import OPERATIVE_CONFIG
from xqg_jax.stages import STAGES


def gin_root() -> pathlib.Path:
  """The folder of the shipped gin files, wherever the package lies."""
  # An editable install maps the package xqg_jax.gin_configs to the checkout.
  package = importlib.import_module("xqg_jax.gin_configs")
  return pathlib.Path(next(iter(package.__path__)))


def run_file(stage: str) -> pathlib.Path:
  """The gin file that a stage begins with."""
  name = stage.replace("--", "").replace(" ", "_").replace("-", "_")
  return gin_root() / "stages" / f"{name}.gin"


def run_stage(
  stage: str,
  *,
  gin_files: Sequence[str] = (),
  gin_bindings: dict[str, str] | None = None,
  gin_search_paths: Sequence[str] = (),
) -> Any:
  """Configures a stage by gin, runs it, and keeps the operative config.

  Args:
    stage: a verb of `STAGES`.
    gin_files: files laid over the stage's own run file, in order.
    gin_bindings: values by macro (`PASSAGES`) or by full gin name, as text.
    gin_search_paths: folders in which `gin_files` are looked for.

  Returns:
    What the stage's function returns.

  Raises:
    InputError: a name that gin does not know, or a macro left unset.
  """
  import gin

  configure_stage(
    stage,
    gin_files=gin_files,
    gin_bindings=gin_bindings,
    gin_search_paths=gin_search_paths,
  )
  result = gin.get_configurable(STAGES[stage].load())()
  output_dir = _macro_value("OUTPUT_DIR") or _macro_value("MODEL_DIR")
  if output_dir and _is_first_process(stage):
    from xqg_jax.io.locations import Location

    path = Location.of(output_dir) / OPERATIVE_CONFIG
    path.write_bytes(gin.operative_config_str().encode())
  return result


def configure_stage(
  stage: str,
  *,
  gin_files: Sequence[str] = (),
  gin_bindings: dict[str, str] | None = None,
  gin_search_paths: Sequence[str] = (),
) -> None:
  """Configures a stage by gin; see `run_stage`.

  Raises:
    InputError: a name that gin does not know, or a macro left unset.
  """
  import gin

  gin.clear_config()
  for folder in (*gin_search_paths, str(gin_root())):
    gin.add_config_file_search_path(folder)
  given = gin_bindings or {}
  paths = [_find_gin_file(name, gin_search_paths) for name in gin_files]
  check_moved_names(paths, given)
  _check_names(stage, paths, given)
  bindings = _to_bindings(stage, given)
  with _gin_errors(stage), _quiet_includes():
    gin.parse_config_files_and_bindings(
      [str(path) for path in (run_file(stage), *paths)],
      bindings,
      finalize_config=False,
    )
  _check_required(stage)
  check_settings(given)
  with _gin_errors(stage):
    gin.finalize()


def _is_first_process(stage: str) -> bool:
  """Whether this process writes what all would write alike."""
  if not STAGES[stage].spans_processes:
    return True
  from xqg_jax.runtime import processes

  return processes.is_first_process()


def _to_bindings(stage: str, given: Mapping[str, str]) -> list[str]:
  """The values given on the command line as lines of gin."""
  declared: dict[str, set[type]] = {}
  for verb in (stage, *STAGES[stage].also_takes) if given else ():
    text = run_file(verb).read_text(encoding="utf-8")
    declared = read_types(text, STAGES[verb].load()) | declared
  return [
    f"{name} = {to_gin(name, value, declared.get(name, ()), declared)}"
    for name, value in given.items()
  ]


def _macros(path: pathlib.Path) -> Iterator[tuple[str, int, str]]:
  """Yields (name, line number, value) of the macros set in a gin file."""
  lines = path.read_text(encoding="utf-8").splitlines()
  for number, line in enumerate(lines, start=1):
    name, equals, value = line.partition("=")
    if equals and name.strip().isupper() and line[:1].isalpha():
      yield name.strip(), number, value.strip()


def stage_macros(stage: str) -> list[str]:
  """Names of the macros that a stage's run file sets."""
  return [name for name, _, _ in _macros(run_file(stage))]


def _find_gin_file(name: str, search_paths: Sequence[str]) -> pathlib.Path:
  for folder in ("", *search_paths, str(gin_root())):
    if (path := pathlib.Path(folder, name)).is_file():
      return path
  raise InputError(
    "no such gin file", where=name, mend="check --gin_file, --gin_search_paths"
  )


def _check_names(
  stage: str, paths: Sequence[pathlib.Path], bindings: Iterable[str]
) -> None:
  """Refuses macros that nothing reads: gin itself would ignore a typo."""
  verbs = (stage, *STAGES[stage].also_takes)
  here = [name for verb in verbs for name in stage_macros(verb)]
  everywhere = {name for verb in STAGES for name in stage_macros(verb)}
  texts = "".join(path.read_text(encoding="utf-8") for path in paths)
  for path in paths:
    for name, number, _ in _macros(path):
      here.append(name)
      if name not in everywhere and f"%{name}" not in texts:
        raise _unknown_macro(name, everywhere, where=f"{path}:{number}")
  for name in bindings:
    if name.isupper() and name not in here:
      raise _unknown_macro(name, here, where=f"--gin.{name}")


def _unknown_macro(name: str, known: Iterable[str], where: str) -> InputError:
  close = difflib.get_close_matches(name, known, n=1)
  mend = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
  return InputError(f"unknown name {name}", where=where, mend=mend)


def _check_required(stage: str) -> None:
  for name in stage_macros(stage):
    if str(_macro_value(name)) == "%gin.REQUIRED":
      raise InputError(
        f"{name} is not set",
        where=f"xqg {stage}",
        mend=f"add --gin.{name}=..., or see `xqg {stage} --help`",
      )


def _macro_value(name: str) -> Any:
  import gin

  try:
    return gin.query_parameter(f"{name}/gin.macro.value")
  except ValueError:  # no such macro in this configuration
    return None


@contextlib.contextmanager
def _gin_errors(stage: str) -> Iterator[None]:
  """Turns gin's ways to say that a config is wrong into one line."""
  try:
    yield
  except InputError:
    raise
  except (
    AttributeError,
    ImportError,
    SyntaxError,
    TypeError,
    ValueError,
  ) as error:
    what = " ".join(str(error).split())
    raise InputError(
      what, where=f"xqg {stage}", mend=f"see `xqg {stage} --help`"
    ) from None


@contextlib.contextmanager
def _quiet_includes() -> Iterator[None]:
  """Gin logs an error for each folder where an included file is not."""
  logging.disable(logging.ERROR)
  try:
    yield
  finally:
    logging.disable(logging.NOTSET)
