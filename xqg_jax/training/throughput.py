"""Training throughput: examples and tokens a second, MFU."""

import time
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from xqg_jax.runtime.chips import CHIPS
from xqg_jax.runtime.program_costs import count_flops
from xqg_jax.training.trainable import TrainableModel


class Throughput:
  """Counts work and the time that it takes, from row to row.

  The clock stands still while a program is compiled or something else than
  training is done.
  """

  def __init__(self, peak_flops: float | None = None):
    """Begins with a clock that stands.

    Args:
      peak_flops: operations that all devices do in a second at most; None:
        unknown.
    """
    self._peak_flops = peak_flops
    self._seconds = 0.0
    self._started: float | None = None
    self._counts = dict.fromkeys(("examples", "tokens", "flops"), 0.0)

  def start(self) -> None:
    """Lets the clock run."""
    self._started = time.perf_counter()

  def stop(self) -> None:
    """Stops the clock."""
    if self._started is not None:
      self._seconds += time.perf_counter() - self._started
    self._started = None

  def count(self, *, examples: int, tokens: int, flops: float | None) -> None:
    """Adds what one step does; nothing while the clock stands."""
    if self._started is not None:
      self._counts["examples"] += examples
      self._counts["tokens"] += tokens
      self._counts["flops"] += flops or 0.0

  def take_rates(self) -> dict[str, float]:
    """The rates since the last call; none if nothing was done.

    `mfu` is the share of the devices' peak (bf16) that the model's products
    take up, between 0 and 1.
    """
    is_running = self._started is not None
    self.stop()
    counts, seconds = self._counts, self._seconds
    self._counts, self._seconds = dict.fromkeys(counts, 0.0), 0.0
    if is_running:
      self.start()
    if not counts["examples"]:
      return {}
    rates = {
      f"{unit}_per_second": counts[unit] / seconds
      for unit in ("examples", "tokens")
    }
    if self._peak_flops is not None:
      rates["mfu"] = counts["flops"] / seconds / self._peak_flops
    return rates


def find_peak_flops(mesh: Mesh) -> float | None:
  """Bf16 operations a second of all devices; None where it is not known."""
  chip = CHIPS.get(mesh.devices.flat[0].device_kind)
  return None if chip is None else chip.flops * mesh.devices.size


class FlopsCounter:
  """Counts the operations of a model's products, once a shape of batch."""

  def __init__(self, model: TrainableModel):
    """Counts for the loss of a model."""
    self._model = model
    self._counts: dict[tuple[Any, ...], float] = {}

  def count(self, params: Any, batch: Mapping[str, Any]) -> float:
    """Operations of forward and backward pass, all devices together.

    A product of the forward pass has two of its size in the backward pass.
    What is computed twice to save memory counts once.
    """
    key = batch_key(batch)
    if key not in self._counts:
      forward = jax.make_jaxpr(self._model.loss)
      rng = jax.eval_shape(jax.random.key, 0)
      shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (params, dict(batch))
      )
      self._counts[key] = 3 * count_flops(forward(*shapes, rng))
    return self._counts[key]


def batch_key(batch: Mapping[str, Any]) -> tuple[Any, ...]:
  """The shapes and dtypes of a batch: whether a step is compiled for it.

  >>> import numpy as np
  >>> batch_key({"tokens": np.zeros((2, 3), np.int32)})
  (('tokens', (2, 3), 'int32'),)
  """
  return tuple(
    (name, array.shape, str(array.dtype))
    for name, array in sorted(batch.items())
  )
