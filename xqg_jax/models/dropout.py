"""Dropout with few random bits."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_BITS = 16


class Dropout(nn.Module):
  """Sets values to zero at random and scales the others up.

  Drawing random bits is the costly part, above all on CPU, and `nn.Dropout`
  takes 32 of them a value. With 16 the rate is exact to 1 / 65,536; the scale
  is that of the rate used.

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
    bits = jax.random.bits(self.make_rng("dropout"), shape, jnp.uint16)
    scale = 2**_BITS / (2**_BITS - threshold)
    return jnp.where(bits >= threshold, x * scale, 0).astype(x.dtype)
