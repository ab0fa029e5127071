"""Progress bars: one that moves in a terminal, a line every 30 s in a log."""

import sys
from collections.abc import Callable
from typing import Any

import tqdm

_SECONDS_PER_LINE = 30


class Progress(tqdm.tqdm):
  """A bar of tqdm that suits where it is written.

  The first step, which compiles what the others run, is not in the estimate
  of the time left. Where standard error is no terminal, work of less than 30
  seconds writes nothing, and other work a line every 30 seconds.
  """

  _time: Callable[[], float]  # tqdm's clock

  def __init__(self, *arguments: Any, **settings: Any):
    """Takes what `tqdm.tqdm` takes."""
    file = settings.get("file") or sys.stderr
    self._is_terminal = bool(getattr(file, "isatty", lambda: False)())
    self._is_first = True
    if not self._is_terminal:
      settings |= dict.fromkeys(
        ("mininterval", "maxinterval", "delay"), _SECONDS_PER_LINE
      )
    super().__init__(*arguments, **settings)

  def update(self, n: float | None = 1) -> bool | None:
    """Adds to what is done."""
    if self._is_first and not self.disable and self.iterable is None:
      self._is_first = False
      self.n += n or 0
      self.initial = self.last_print_n = self.n
      self.start_t = self.last_print_t = self._time()
      return self.refresh() if self._is_terminal else False
    return super().update(n)

  def display(self, msg: str | None = None, pos: int | None = None) -> bool:
    """Writes the bar; as a line of its own where it is no terminal."""
    if self._is_terminal:
      return bool(super().display(msg, pos))
    line = str(self) if msg is None else msg
    if line:
      # After the last one tqdm ends the line itself.
      self.fp.write(line if pos is not None else f"{line}\n")
      self.fp.flush()
    return False
