"""Affine maps in the dtype of their inputs."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from xqg_jax.models.layers.cpu.affine import bfloat16_affine
from xqg_jax.runtime.cpu_forms import by_platform


def affine(
  x: Float[Array, "*batch inputs"],
  kernel: Float[Array, "inputs outputs"],
  bias: Float[Array, " outputs"],
) -> Float[Array, "*batch outputs"]:
  """Computes `x @ kernel + bias` in the dtype of `x`.

  Args:
    x: in the compute dtype.
    kernel: in float32.
    bias: in float32.
  """
  if x.dtype != jnp.bfloat16:
    return _affine(x, kernel, bias)
  return by_platform(x, kernel, bias, cpu=bfloat16_affine, default=_affine)


def _affine(x: Array, kernel: Array, bias: Array) -> Array:
  return x @ kernel.astype(x.dtype) + bias.astype(x.dtype)
