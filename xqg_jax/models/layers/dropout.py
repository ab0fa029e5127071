"""Dropout from few random bits."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend.random import threefry_2x32
from jaxtyping import Array, Float, UInt

_BITS = 16


class Dropout(nn.Module):
  """Sets values to zero at random and scales the others up.

  Drawing random bits is the costly part, above all on CPU: `nn.Dropout` draws
  64 for each value and folds them to 32. Here it is 16, so that the rate is
  exact to 1 / 65,536; the scale is that of the rate used.

  Attributes:
    rate: share of values that are dropped, from 0 to below 1.
    broadcast_dims: axes along which all values are dropped or none.
  """

  rate: float
  broadcast_dims: tuple[int, ...] = ()

  def __call__(
    self, x: Float[Array, "*shape"], deterministic: bool
  ) -> Float[Array, "*shape"]:
    """Drops values by the rng `dropout`, unless `deterministic`."""
    threshold = round(self.rate * 2**_BITS)
    if deterministic or not threshold:
      return x
    shape = list(x.shape)
    for axis in self.broadcast_dims:
      shape[axis] = 1
    rng = self.make_rng("dropout")
    # A barrier has the mask drawn once and not again for the gradient.
    is_kept = jax.lax.optimization_barrier(
      _draw_bits(rng, tuple(shape)) >= threshold
    )
    scale = 2**_BITS / (2**_BITS - threshold)
    return jnp.where(is_kept, x * scale, 0).astype(x.dtype)


def _draw_bits(rng: Array, shape: tuple[int, ...]) -> UInt[Array, "*shape"]:
  """Random uint16s; `jax.random.bits` would drop six bytes of every eight."""
  size = math.prod(shape)
  counts = jnp.arange(-(-size // 2), dtype=jnp.uint32)
  words = threefry_2x32(jax.random.key_data(rng), counts)
  # [words] -> [words, 2] -> [*shape]; without a barrier both halves of a word
  # would draw it.
  words = jax.lax.optimization_barrier(words)
  bits = jax.lax.bitcast_convert_type(words, jnp.uint16)
  return bits.reshape(-1)[:size].reshape(shape)
