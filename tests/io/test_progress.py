"""Progress bars in a terminal and in a log."""

import io

import pytest

from xqg_jax.io.progress import Progress


class _Terminal(io.StringIO):
  def isatty(self):
    return True


class _Clock:
  def __init__(self):
    self.now = 0.0

  def __call__(self):
    return self.now


def _run(file, seconds, **settings):
  """A bar of 100 updates, the first of which takes a minute."""
  clock = _Clock()
  with Progress(total=100, file=file, desc="encode", **settings) as bar:
    bar._time = clock
    bar.start_t = bar.last_print_t = 0.0
    clock.now = 60.0
    bar.update()
    for _ in range(99):
      clock.now += seconds
      bar.update()
    return bar.format_dict


def test_a_log_has_a_line_every_30_seconds():
  file = io.StringIO()
  _run(file, 1.0)
  lines = file.getvalue().splitlines()
  assert len(lines) == 4  # at 30, 60 and 90 s, and the end
  assert all(line.startswith("encode: ") for line in lines)
  assert "\r" not in file.getvalue()
  assert "100/100" in lines[-1]


def test_a_log_has_nothing_of_short_work():
  file = io.StringIO()
  _run(file, 0.1)
  assert file.getvalue() == ""


@pytest.mark.parametrize("file", [io.StringIO(), _Terminal()])
def test_the_first_step_is_not_in_the_estimate(file):
  state = _run(file, 1.0)
  assert (state["n"], state["initial"]) == (100, 1)
  bar = Progress.format_meter(**state | {"elapsed": 99.0, "rate": None})
  assert "1.00" in bar


def test_a_terminal_has_a_bar_that_moves():
  file = _Terminal()
  _run(file, 1.0)
  assert file.getvalue().count("\r") > 50


def test_a_loop_counts_all_its_steps():
  bar = Progress(range(5), file=io.StringIO())
  assert list(bar) == [0, 1, 2, 3, 4]
  assert bar.n == 5
