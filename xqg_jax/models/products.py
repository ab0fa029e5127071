"""Affine maps and their gradients in the forms that each platform likes best.

XLA on CPU multiplies bfloat16 by the processor's own instructions, twice as
fast as float32, only where the sums come out in float32 and both factors lie in
order of the product; else it converts the factors to float32 first. What jax
derives from `x @ kernel` asks for bfloat16 sums and, for the kernel's gradient,
a transposed factor.
"""

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float


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
  return jax.lax.platform_dependent(
    x, kernel, bias, cpu=_affine_on_cpu, default=_affine
  )


def _affine(x: Array, kernel: Array, bias: Array) -> Array:
  return x @ kernel.astype(x.dtype) + bias.astype(x.dtype)


@jax.custom_vjp
def _affine_on_cpu(x: Array, kernel: Array, bias: Array) -> Array:
  return _affine_forward(x, kernel, bias)[0]


def _affine_forward(
  x: Array, kernel: Array, bias: Array
) -> tuple[Array, tuple[Array, Array]]:
  kernel = kernel.astype(x.dtype)
  y = jnp.matmul(x, kernel, preferred_element_type=jnp.float32) + bias
  return y.astype(x.dtype), (x, kernel)


def _affine_backward(
  saved: tuple[Array, Array], dy: Array
) -> tuple[Array, Array, Array]:
  x, kernel = saved
  dx = jnp.einsum(
    "...o,io->...i", dy, kernel, preferred_element_type=jnp.float32
  )
  # [*batch, features] -> [tokens, features]
  rows, dy = (z.reshape(-1, z.shape[-1]) for z in (x, dy))
  d_kernel = jnp.matmul(lay_out(rows.T), dy, preferred_element_type=jnp.float32)
  # A sum in bfloat16 would be slow here, and less exact.
  d_bias = jnp.sum(dy.astype(jnp.float32), axis=0)
  return dx.astype(x.dtype), d_kernel, d_bias


_affine_on_cpu.defvjp(_affine_forward, _affine_backward)


def lay_out(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
  """Has the elements lie in the order of the axes, by a copy where needed.

  A transposed array would else be passed on as it lies.
  """
  return with_layout_constraint(x, Layout(tuple(range(x.ndim))))
