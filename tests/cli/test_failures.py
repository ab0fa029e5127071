"""How commands end: one line and an exit code, whatever went wrong."""

import errno
import pathlib
import signal
import subprocess
import sys
import warnings

import pytest

from xqg_jax.cli import failures, main
from xqg_jax.errors import InputError, NativeError, Stopped

LETTERS = "x" * 300


def _fail(tmp_path, capsys, **changes):
  (tmp_path / "p.tsv").write_text("1\ta\tb\n")
  values = {"PASSAGES": "p.tsv", "OUTPUT_DIR": "out", "GENERATED_QUERIES": "q"}
  (tmp_path / "q").write_text('{"docid": "1", "generated_queries": {}}\n')
  flags = [f"--gin.{k}={v}" for k, v in (values | changes).items()]
  assert main.main(["filter", *flags]) == 2
  (line,) = [
    line
    for line in capsys.readouterr().err.splitlines()
    if line.startswith("xqg: ")
  ]
  return line


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"OUTPUT_DIR": "p.tsv/out"}, "p.tsv/out: a file stands where a folder"),
    ({"OUTPUT_DIR": "dangling"}, "dangling: something else is there already"),
    ({"OUTPUT_DIR": LETTERS}, "the name is too long; choose a shorter"),
    ({"OUTPUT_DIR": "/proc/out"}, "/proc/out: no such file or folder"),
    ({"PASSAGES": f"{LETTERS}.tsv"}, "the name is too long; choose a shorter"),
    ({"PASSAGES": "loop.tsv"}, "loop.tsv: symbolic links that lead to"),
    ({"PASSAGES": "p.tsv/p.tsv"}, "p.tsv/p.tsv: a file stands where a folder"),
    ({"GENERATED_QUERIES": "p.tsv/q"}, "p.tsv/q: a file stands where a folder"),
  ],
)
def test_paths_that_cannot_be(tmp_path, capsys, monkeypatch, changes, message):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "dangling").symlink_to("nowhere")
  (tmp_path / "loop.tsv").symlink_to("loop.tsv")
  line = _fail(tmp_path, capsys, **changes)
  assert line.startswith("xqg: error: ")
  assert message in line
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
  ("error", "line", "code"),
  [
    (InputError("what", where="a:1"), "error: a:1: what", 2),
    (NativeError("crashed"), "failed: crashed", 1),
    (Stopped("stopped at 3"), "stopped at 3", 0),
    (KeyboardInterrupt(), "interrupted; the same command goes on", 130),
    (
      PermissionError(errno.EACCES, "Permission denied", "secret.tsv"),
      "error: secret.tsv: permission denied; ask for the right to it",
      2,
    ),
    (
      OSError(errno.EROFS, "Read-only file system", b"/ro/x"),
      "error: /ro/x: the file system is read-only; choose another place",
      2,
    ),
  ],
)
def test_lines_and_codes(error, line, code):
  assert failures.describe(error) == (line, code)


def test_errors_of_our_own_making_keep_their_traceback():
  for error in (ValueError("x"), OSError("x"), ConnectionError(111, "refused")):
    assert failures.describe(error) is None


def test_errors_that_pass_through_gin_keep_their_path():
  from gin.utils import augment_exception_message_and_reraise

  try:
    try:
      pathlib.Path("/nowhere/at/all").stat()
    except OSError as error:
      augment_exception_message_and_reraise(error, "\n  In call to ...")
  except OSError as copy:
    line, code = failures.describe(copy)
  assert (code, line) == (
    2,
    "error: /nowhere/at/all: no such file or folder; check the path",
  )


def test_warnings_are_one_line(capsys):
  with failures.signals_and_warnings_as_lines():
    with warnings.catch_warnings():
      warnings.simplefilter("always")
      warnings.warn("alpha is\nlarge", stacklevel=1)
  assert capsys.readouterr().err == "xqg: warning: alpha is large\n"


def test_sigterm_ends_the_block_and_is_told():
  told = None
  try:
    with failures.signals_and_warnings_as_lines():
      signal.raise_signal(signal.SIGTERM)
  except BaseException as error:
    told = failures.describe(error)
  assert told == ("stopped by SIGTERM; the same command goes on", 143)
  assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("arguments", [["--help"], ["encode", "--help"]])
def test_a_reader_that_has_enough(arguments):
  command = [sys.executable, "-m", "xqg_jax.cli.main", *arguments]
  process = subprocess.Popen(
    command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  )
  process.stdout.close()
  assert process.stderr.read() == ""
  assert process.wait() == 0
  process.stderr.close()


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["encod"], "unknown stage 'encod'; did you mean `xqg encode`?"),
    (["store"], "unknown stage 'store'; did you mean `xqg store info` or"),
    (["store", "--gin.STORE=x"], "did you mean `xqg store info` or `xqg store"),
    (["store", "inof"], "'store inof'; did you mean `xqg store info`?"),
    (["tune_alpha"], "'tune_alpha'; did you mean `xqg tune-alpha`?"),
    (["zzz"], "unknown stage 'zzz'; see `xqg --help`"),
  ],
)
def test_stages_that_are_none(arguments, message, capsys):
  assert main.main(arguments) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("xqg: error: ")
  assert message in line
