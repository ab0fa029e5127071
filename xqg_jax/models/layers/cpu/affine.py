"""Affine maps in bfloat16 on CPUs, with gradients as XLA likes them.

XLA on CPU multiplies bfloat16 by the processor's own instructions, twice as
fast as float32, only where the sums come out in float32 and both factors lie in
order of the product; else it converts the factors to float32 first. What jax
derives from `x @ kernel` asks for bfloat16 sums and, for the kernel's gradient,
a transposed factor. So the product is a primitive here, with its own
transposes. (With `jax.custom_vjp` instead, every row of a `jax.vmap` over rows
would have a kernel gradient of its own.)
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

# [*batch, inputs] bfloat16, [inputs, outputs] float32
#   -> [*batch, outputs] float32
_product_p = Primitive("bfloat16_product")


def bfloat16_affine(x: Array, kernel: Array, bias: Array) -> Array:
  """`affine` of bfloat16 inputs."""
  # The bias has its gradient summed in float32: faster here, and more exact.
  return (_product_p.bind(x, kernel) + bias).astype(x.dtype)


def _multiply(x: Array, kernel: Array) -> Array:
  kernel = kernel.astype(x.dtype)
  return jnp.matmul(x, kernel, preferred_element_type=jnp.float32)


def _transpose_input(dy: Array, x: Any, kernel: Array) -> Array:
  dtype = x.aval.dtype
  dx = jnp.einsum(
    "...o,io->...i",
    dy.astype(dtype),
    kernel.astype(dtype),
    preferred_element_type=jnp.float32,
  )
  return dx.astype(dtype)


def _transpose_kernel(dy: Array, x: Array, _: Any) -> Array:
  # [*batch, features] -> [tokens, features]
  rows, dy = (z.reshape(-1, z.shape[-1]).astype(x.dtype) for z in (x, dy))
  return jnp.matmul(lay_out(rows.T), dy, preferred_element_type=jnp.float32)


def _batch(
  factors: tuple[Array, Array], axes: tuple[int | None, int | None]
) -> tuple[Array, int]:
  if axes[0] is None or axes[1] is not None:
    return jax.vmap(_multiply, axes)(*factors), 0
  x, kernel = factors
  return _product_p.bind(jnp.moveaxis(x, axes[0], 0), kernel), 0


_product_p.def_impl(jax.jit(_multiply))
_product_p.def_abstract_eval(
  lambda x, kernel: x.update(
    shape=(*x.shape[:-1], kernel.shape[1]), dtype=jnp.dtype(jnp.float32)
  )
)
ad.defbilinear(_product_p, _transpose_input, _transpose_kernel)
batching.primitive_batchers[_product_p] = _batch
mlir.register_lowering(
  _product_p, mlir.lower_fun(_multiply, multiple_results=False)
)


def lay_out(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
  """Has the elements lie in the order of the axes, by a copy where needed.

  A transposed array would else be passed on as it lies.
  """
  return with_layout_constraint(x, Layout(tuple(range(x.ndim))))
