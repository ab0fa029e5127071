"""The command line: `xqg STAGE`, configured by gin. Only this file knows gin.

`xqg encode --gin_file=encoders/e5.gin --gin.PASSAGES=corpus.tsv ...` reads
`gin_configs/runs/encode.gin`, lays the files and values given over it, and
calls `xqg_jax.encode` with what gin bound.
"""

import argparse
import contextlib
import dataclasses
import difflib
import errno
import importlib
import importlib.util  # gin 0.5.0 uses it without importing it
import inspect
import logging
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from xqg_jax.compile_cache import keep_compiled_programs
from xqg_jax.errors import InputError, NativeError, Stopped
from xqg_jax.host_memory import keep_freed_memory

OPERATIVE_CONFIG = "operative_config.gin"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclasses.dataclass(frozen=True)
class Stage:
  """One verb: the function it runs and one line about it.

  Attributes:
    function: module and name.
    summary: for the help.
    also_takes: verbs whose settings it passes over, so that it can be put in
      the place of theirs in a command.
    spans_processes: whether several processes can do it together.
  """

  function: str
  summary: str
  also_takes: tuple[str, ...] = ()
  spans_processes: bool = False

  def load(self) -> Callable[..., Any]:
    """Imports the stage's function."""
    module, name = self.function.split(":")
    return getattr(importlib.import_module(f"xqg_jax.{module}"), name)


STAGES = {
  "demo": Stage("demo:run_demo", "the whole road on a collection made here"),
  "prepare": Stage("preparation:prepare", "write a collection's files"),
  "plan": Stage(
    "planning:plan",
    "what a step needs on chips not yet rented",
    also_takes=("train", "generate", "encode"),
  ),
  "train": Stage(
    "training:train",
    "train query generator or dual encoder",
    spans_processes=True,
  ),
  "export": Stage("exporting:export", "write a model for other programs"),
  "generate": Stage(
    "generation:generate",
    "write queries for passages",
    spans_processes=True,
  ),
  "filter": Stage("filtering:filter_queries", "remove harmful queries"),
  "encode": Stage(
    "encoding:encode",
    "passages and query sums to vectors",
    spans_processes=True,
  ),
  "augment": Stage("augmentation:augment", "add query sums, as a view"),
  "tune-alpha": Stage("tuning:tune_alpha", "choose alpha by dev questions"),
  "store info": Stage("store_tools:describe_store", "what a store holds"),
  "store verify": Stage("store_tools:verify_store", "find what is damaged"),
  "store export": Stage(
    "store_export:export_store", "vectors for numpy, parquet or FAISS"
  ),
  "store import": Stage(
    "store_import:import_vectors", "a store of vectors made elsewhere"
  ),
  "index": Stage("indexing:build_index", "build a ScaNN or exact index"),
  "update-index": Stage(
    "index_updating:update_index", "an index of changed embeddings"
  ),
  "search": Stage(
    "searching:search", "find passages for questions", spans_processes=True
  ),
  "mine-negatives": Stage(
    "mining:mine_negatives", "hard negatives for training pairs"
  ),
  "search --query": Stage("asking:ask", "print passages for one question"),
  "serve": Stage("serving:serve", "a search page on this machine"),
  "evaluate": Stage("evaluation:evaluate", "score and compare runs"),
  "pool": Stage(
    "pooled_evaluation:pool", "evaluations of several seeds as one"
  ),
  "submit": Stage("submission:submit", "a file for XOR-Retrieve's leaderboard"),
  "report": Stage("reporting:report", "one HTML page of results"),
}

EPILOG = """\
Each stage begins with its own file gin_configs/runs/STAGE.gin; --gin_file adds
others on top, --gin.NAME=VALUE sets one value. A value that is not gin syntax
is taken as text, so --gin.PASSAGES=corpus.tsv needs no quotes.
`xqg STAGE --help` lists the names a stage knows."""


def gin_root() -> pathlib.Path:
  """The folder of the shipped gin files, wherever the package lies."""
  # An editable install maps the package xqg_jax.gin_configs to the checkout.
  package = importlib.import_module("xqg_jax.gin_configs")
  return pathlib.Path(next(iter(package.__path__)))


def run_file(stage: str) -> pathlib.Path:
  """The gin file that a stage begins with."""
  name = stage.replace("--", "").replace(" ", "_")
  return gin_root() / "runs" / f"{name}.gin"


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one stage; returns the exit code (2 for bad input)."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  keep_freed_memory()
  arguments = sys.argv[1:] if argv is None else list(argv)
  try:
    args, bindings = _parse_arguments(arguments)
    if args.help:
      print(describe_stage(args.stage))
      return 0
    if args.stage in ("encode", "search", "mine-negatives"):
      keep_compiled_programs()
    _join_processes(args)
    run_stage(
      args.stage,
      gin_files=args.gin_file,
      gin_bindings=bindings,
      gin_search_paths=[p for p in args.gin_search_paths.split(",") if p],
    )
  except InputError as error:
    # gin appends lines of its own to exceptions that pass through it.
    print(f"xqg: error: {str(error).splitlines()[0]}", file=sys.stderr)
    return 2
  except NativeError as error:
    print(f"xqg: failed: {str(error).splitlines()[0]}", file=sys.stderr)
    return 1
  except Stopped as stopped:
    print(f"xqg: {str(stopped).splitlines()[0]}", file=sys.stderr)
  except OSError as error:
    if error.errno not in _NO_ROOM:
      raise
    what = f"{error.filename or 'a file'} cannot be written ({error.strerror})"
    print(
      f"xqg: error: {what}; make room and run the same command again",
      file=sys.stderr,
    )
    return 2
  except KeyboardInterrupt:
    print("xqg: interrupted; the same command goes on", file=sys.stderr)
    return 130
  return 0


def _parse_arguments(
  arguments: Sequence[str],
) -> tuple[argparse.Namespace, dict[str, str]]:
  parser = argparse.ArgumentParser(
    prog="xqg",
    description="Cross-lingual dense retrieval with generated queries.",
    epilog="stages:\n"
    + "".join(f"  {n:<16}{s.summary}\n" for n, s in STAGES.items())
    + f"\n{EPILOG}",
    formatter_class=argparse.RawDescriptionHelpFormatter,
    add_help=False,
    allow_abbrev=False,
  )
  parser.add_argument("stage", choices=STAGES, metavar="STAGE")
  parser.add_argument(
    "-h", "--help", action="store_true", help="what a stage takes and does"
  )
  parser.add_argument(
    "--gin_file", action="append", default=[], help="a further gin file"
  )
  parser.add_argument(
    "--gin_search_paths", default="", help="folders for gin files, by comma"
  )
  parser.add_argument(
    "--query", metavar="TEXT", help="of search: print passages for TEXT"
  )
  together = parser.add_argument_group(
    "several hosts (train, generate, encode, search; the same command on each)"
  )
  together.add_argument(
    "--distributed",
    action="store_true",
    help="on a TPU pod, under SLURM, Open MPI or Kubernetes",
  )
  for name, metavar, meaning in (
    ("coordinator_address", "HOST:PORT", "elsewhere: a free port of process 0"),
    ("num_processes", "N", "of all hosts together"),
    ("process_id", "I", "of this one, from 0"),
  ):
    together.add_argument(f"--{name}", metavar=metavar, help=meaning)
  if not arguments or arguments[0] in ("-h", "--help"):
    parser.print_help()
    raise SystemExit(0)
  args, rest = parser.parse_known_args(_join_verb(arguments))
  bindings = dict(_parse_binding(flag) for flag in rest)
  if args.query is not None:
    if args.stage != "search":
      raise InputError(
        f"`xqg {args.stage}` takes no --query", mend="use `xqg search --query`"
      )
    args.stage = "search --query"
    bindings["QUERY"] = repr(args.query)  # a question may look like gin syntax
  return args, bindings


def _join_verb(arguments: Sequence[str]) -> list[str]:
  """Makes one verb of two words, as in `xqg store info`.

  >>> _join_verb(["store", "info", "--gin.STORE=s"])
  ['store info', '--gin.STORE=s']
  """
  verb = " ".join(arguments[:2])
  is_verb = verb in STAGES and "--" not in verb
  return [verb, *arguments[2:]] if is_verb else list(arguments)


def _join_processes(args: argparse.Namespace) -> None:
  """Joins the processes of several hosts, if the flags say that there are."""
  names = ("coordinator_address", "num_processes", "process_id")
  given = {name: getattr(args, name) for name in names}
  is_wanted = args.distributed or any(given.values())
  if not STAGES[args.stage].spans_processes:
    if is_wanted:
      raise InputError(
        f"`xqg {args.stage}` runs in one process",
        mend="leave the flags of several hosts out",
      )
    return
  from xqg_jax import processes  # with JAX, which not every stage needs

  if is_wanted:
    processes.join_processes(**given)
  processes.check_all_joined()


def _parse_binding(flag: str) -> tuple[str, str]:
  name, equals, value = flag.partition("=")
  if flag == "--retrain":
    return "RETRAIN", "True"
  if not name.startswith("--gin.") or not equals:
    raise InputError(
      f"unknown argument {flag!r}",
      mend="settings look like --gin.NAME=VALUE; see `xqg STAGE --help`",
    )
  return name.removeprefix("--gin."), value


# ------------------------------------------------------------------------ gin


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
    from xqg_jax.locations import Location

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
  _check_names(stage, paths, given)
  with _gin_errors(stage), _quiet_includes():
    gin.parse_config_files_and_bindings(
      [str(path) for path in (run_file(stage), *paths)],
      [f"{name} = {_to_gin(value)}" for name, value in given.items()],
      finalize_config=False,
    )
  _check_required(stage)
  with _gin_errors(stage):
    gin.finalize()


def _is_first_process(stage: str) -> bool:
  """Whether this process writes what all would write alike."""
  if not STAGES[stage].spans_processes:
    return True
  from xqg_jax import processes

  return processes.is_first_process()


def _to_gin(value: str) -> str:
  """Leaves gin syntax as it is and quotes everything else as text."""
  import gin

  try:
    gin.config.parse_value(value)
  except SyntaxError:
    return repr(value)
  except ValueError:  # a reference, resolved when the whole config is parsed
    return value
  return value


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


# ----------------------------------------------------------------------- help


def describe_stage(stage: str) -> str:
  """The help text of a stage: header of its gin file, function, arguments."""
  text = run_file(stage).read_text(encoding="utf-8")
  header = [
    line.removeprefix("#").removeprefix(" ")
    for line in text.splitlines()
    if line.startswith("#")
  ]
  function = STAGES[stage].load()
  return "\n".join(
    (
      f"xqg {stage}: {STAGES[stage].summary}\n",
      *header,
      "",
      f"In Python: xqg_jax.{function.__name__}(...)",
      "",
      inspect.getdoc(function) or "",
    )
  )


if __name__ == "__main__":
  sys.exit(main())
