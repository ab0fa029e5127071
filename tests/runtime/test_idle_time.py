"""The idle meter: gaps between batches, and nothing else."""

import time

import jax.numpy as jnp
import numpy as np
import pytest

from xqg_jax.runtime.idle_meter import IdleMeter

IDS = np.array([[1, 1, 2, 0], [1, 0, 0, 0]], np.int32)


class Slow:
  """A result that is there after a while."""

  def __init__(self, seconds):
    self._until = time.perf_counter() + seconds

  def block_until_ready(self):
    time.sleep(max(0.0, self._until - time.perf_counter()))


def test_a_gap_between_batches_is_idle():
  ready = jnp.zeros(1).block_until_ready()
  with IdleMeter() as meter:
    meter.watch(time.perf_counter(), ready, IDS)
    time.sleep(0.2)
    meter.watch(time.perf_counter(), ready, IDS)
  assert meter.share > 0.8
  assert "8 tokens in 0." in meter.describe()


def test_batches_that_wait_for_each_other_leave_no_gap():
  with IdleMeter() as meter:
    for seconds in (0.2, 0.3):
      meter.watch(time.perf_counter(), Slow(seconds), IDS)
  assert meter.share == 0.0
  assert meter.seconds == pytest.approx(0.3, abs=0.1)


def test_nothing_measured():
  with IdleMeter() as meter:
    pass
  assert (meter.share, meter.seconds) == (0.0, 0.0)
