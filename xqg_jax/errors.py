"""Exceptions that the command line shows as one line."""


class InputError(ValueError):
  """Bad input, as one line: where, what, and how to mend it.

  The command line prints the line and exits with 2; library users catch it
  as a `ValueError`.

  >>> str(
  ...   InputError(
  ...     "found 2 fields, expected 3",
  ...     where="wiki.tsv:17",
  ...     mend="separate id, text and title by tabs",
  ...   )
  ... )
  'wiki.tsv:17: found 2 fields, expected 3; separate id, text and title by tabs'
  """

  def __init__(
    self, what: str, *, where: object = None, mend: str | None = None
  ):
    line = f"{where}: {what}" if where is not None else what
    if mend:
      line = f"{line}; {mend}"
    super().__init__(" ".join(line.split()))


class NativeError(RuntimeError):
  """A native library failed or its process died; the input is not the cause."""


class Stopped(Exception):
  """A stage was asked to stop and has saved what it had; no failure."""
