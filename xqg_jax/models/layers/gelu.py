"""GELU by the error function."""

from jaxtyping import Array, Float

from xqg_jax.models.layers.cpu.gelu import frugal_gelu, plain_gelu
from xqg_jax.runtime.cpu_forms import by_platform


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
  """The exact GELU, in the dtype of `x`."""
  return by_platform(x, cpu=frugal_gelu, default=plain_gelu)
