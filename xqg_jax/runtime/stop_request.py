"""SIGTERM handling: save and stop after the same step on all processes."""

import signal
import threading

import jax
import orbax.checkpoint as ocp


class StopRequest:
  """Notes SIGTERM, inside a `with` block, instead of dying of it.

  In one process a handler notes it. Over several, JAX's preemption service
  notes it on any of them and chooses the step at which all stop.

  Attributes:
    is_made: whether SIGTERM has come, as far as this process may say.
  """

  def __init__(self) -> None:
    """Notes nothing yet."""
    self.is_made = False

  def __enter__(self) -> "StopRequest":
    # Only the main thread may have handlers; elsewhere SIGTERM kills as ever.
    is_main = threading.current_thread() is threading.main_thread()
    self._has_handler = is_main and jax.process_count() == 1
    if self._has_handler:
      self._previous = signal.signal(signal.SIGTERM, self._note)
    return self

  def __exit__(self, *unused: object) -> None:
    if self._has_handler:
      # None: a handler that was not set from Python and cannot be put back.
      previous = self._previous
      signal.signal(
        signal.SIGTERM, signal.SIG_DFL if previous is None else previous
      )

  def _note(self, *_: object) -> None:
    self.is_made = True

  def reaches(self, step: int) -> bool:
    """Whether the run is to stop after so many steps.

    Args:
      step: steps done; over several processes each asks after each step.
    """
    if jax.process_count() > 1 and not self.is_made:
      self.is_made = ocp.multihost.reached_preemption(step)
    return self.is_made
