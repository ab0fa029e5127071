"""Command line `xqg VERB`: arguments, stages, messages of errors.

`xqg encode --gin_file=encoders/e5.gin --gin.PASSAGES=corpus.tsv ...` reads
`gin_configs/stages/encode.gin`, lays the files and values given over it, and
calls `xqg_jax.encode` with what gin bound.
"""

import argparse
import difflib
import os
import sys
from collections.abc import Sequence

from xqg_jax.cli.config import run_stage
from xqg_jax.cli.failures import (
  close_output,
  describe,
  signals_and_warnings_as_lines,
)
from xqg_jax.cli.help import describe_stage
from xqg_jax.cli.process import keep_compiled_programs, keep_freed_memory
from xqg_jax.errors import InputError
from xqg_jax.stages import STAGES

EPILOG = """\
Each stage begins with its own file gin_configs/stages/STAGE.gin; --gin_file
adds others on top, --gin.NAME=VALUE sets one value. A value that is not gin
syntax is taken as text, so --gin.PASSAGES=corpus.tsv needs no quotes.
`xqg STAGE --help` lists the names a stage knows."""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one stage; returns the exit code (2 for bad input)."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  keep_freed_memory()
  try:
    with signals_and_warnings_as_lines():
      _run(sys.argv[1:] if argv is None else list(argv))
      sys.stdout.flush()
  except BrokenPipeError:  # of `xqg ... | head`, which has read enough
    close_output()
  except BaseException as error:
    told = describe(error)
    if told is None:
      raise
    print(f"xqg: {told[0]}", file=sys.stderr)
    return told[1]
  return 0


def _run(arguments: Sequence[str]) -> None:
  args, bindings = _parse_arguments(arguments)
  if args.help:
    print(describe_stage(args.stage))
    return
  if args.stage in ("encode", "search", "search --query", "mine-negatives"):
    keep_compiled_programs()
  _join_processes(args)
  run_stage(
    args.stage,
    gin_files=args.gin_file,
    gin_bindings=bindings,
    gin_search_paths=[p for p in args.gin_search_paths.split(",") if p],
  )


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
  parser.add_argument("stage", metavar="STAGE")
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
    sys.stdout.flush()
    raise SystemExit(0)
  args, rest = parser.parse_known_args(_join_verb(arguments))
  _check_stage(arguments, args.stage)
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


def _check_stage(arguments: Sequence[str], stage: str) -> None:
  """Refuses what is no stage, and the first word alone of one of two words."""
  if stage in STAGES:
    return
  meant = [verb for verb in STAGES if verb.startswith(f"{stage} ")]
  words = stage
  if meant and len(arguments) > 1 and not arguments[1].startswith("-"):
    words = f"{stage} {arguments[1]}"
  if words != stage or not meant:
    meant = difflib.get_close_matches(words, STAGES, n=1) or meant
  choices = " or ".join(f"`xqg {verb}`" for verb in meant)
  raise InputError(
    f"unknown stage {words!r}",
    mend=f"did you mean {choices}?" if meant else "see `xqg --help`",
  )


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
  from xqg_jax.runtime import processes  # with JAX, which not every stage needs

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


# ----------------------------------------------------------------------- help


if __name__ == "__main__":
  sys.exit(main())
