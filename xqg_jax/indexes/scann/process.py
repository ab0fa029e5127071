"""Process in which ScaNN runs, started, asked and ended."""

import contextlib
import pathlib
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Sequence
from typing import IO, Any, cast

import numpy as np

from xqg_jax.errors import InputError, NativeError
from xqg_jax.indexes.scann import worker as scann_worker
from xqg_jax.indexes.scann.worker import read_message, write_message


class ScannError(NativeError):
  """ScaNN refused a request, or its process ended."""


class ScannProcess:
  """Starts the process, sends requests, and turns its end into an error."""

  def __init__(self):
    self._log = tempfile.TemporaryFile()  # noqa: SIM115, `_end` closes it
    script = pathlib.Path(scann_worker.__file__)
    # -P: the folder of the script must not hide packages of the same name.
    self._process = subprocess.Popen(
      [sys.executable, "-P", str(script)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=self._log,
    )
    # They are there, since both are pipes.
    self._requests = cast(IO[bytes], self._process.stdin)
    self._replies = cast(IO[bytes], self._process.stdout)
    self.close = weakref.finalize(
      self, _end, self._process, self._requests, self._replies, self._log
    )

  @property
  def pid(self) -> int:
    """The process id."""
    return self._process.pid

  def call(
    self, action: str, arrays: Sequence[np.ndarray] = (), **arguments: Any
  ) -> list[np.ndarray]:
    """Sends one request and waits for the answer.

    Raises:
      InputError: ScaNN is not installed.
      ScannError: ScaNN refused, or the process is gone.
    """
    if not self.close.alive:
      raise ScannError("the ScaNN index is closed")
    header = {"action": action, **arguments}
    try:
      write_message(self._requests, header, arrays)
      reply, answer = read_message(self._replies)
    except (EOFError, OSError):
      raise ScannError(self._describe_end(action)) from None
    if reply.get("is_import_error"):
      raise InputError(
        f"ScaNN cannot be loaded ({reply['error']})",
        mend='install scann, or build the index with kind="exact"',
      )
    if "error" in reply:
      raise ScannError(f"ScaNN could not {action}: {reply['error']}")
    return answer

  def _describe_end(self, action: str) -> str:
    code = self._process.wait()
    reason = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    self._log.seek(0)
    lines = self._log.read().decode(errors="replace").split("\n")
    last = [line.strip() for line in lines if line.strip()][-3:]
    said = " | ".join(last) or "nothing"
    return f"ScaNN's process ended ({reason}) during {action}; it said: {said}"


def _end(
  process: subprocess.Popen,
  requests: IO[bytes],
  replies: IO[bytes],
  log: IO[bytes],
) -> None:
  # The worker ends by itself when its input does; it may be gone already.
  with contextlib.suppress(BrokenPipeError):
    requests.close()
  try:
    process.wait(timeout=5)
  except subprocess.TimeoutExpired:
    process.kill()
    process.wait()
  replies.close()
  log.close()
