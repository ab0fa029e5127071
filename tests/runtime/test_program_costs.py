"""Operations of traced programs: as many as by JAX's own two counts."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import roofline

from xqg_jax.runtime.program_costs import count_flops


def _ones(*shape):
  return jnp.ones(shape, jnp.float32)


def _attend(queries, keys, values):
  weights = jax.nn.softmax(jnp.einsum("bqnh,bknh->bnqk", queries, keys))
  return jnp.einsum("bnqk,bknh->bqnh", weights, values).sum()


def _project(x, kernel):
  return jnp.tanh(x @ kernel).sum()


@pytest.mark.parametrize(
  ("function", "arguments"),
  [
    (_attend, (_ones(2, 5, 3, 8), _ones(2, 7, 3, 8), _ones(2, 7, 3, 8))),
    (_project, (_ones(4, 6, 16), _ones(16, 32))),
  ],
)
@pytest.mark.parametrize("is_training", [False, True])
def test_products_are_those_of_jaxs_roofline(function, arguments, is_training):
  if is_training:
    everything = tuple(range(len(arguments)))
    function = jax.value_and_grad(function, argnums=everything)
  _, counted = roofline.roofline(function)(*arguments)
  assert count_flops(jax.make_jaxpr(function)(*arguments)) == counted.flops


def test_a_scan_counts_as_the_loop_that_it_is():
  # XLA's own count goes through the body of a loop once.
  def scan(x, kernels):
    return jax.lax.scan(lambda x, kernel: (x @ kernel, None), x, kernels)[0]

  def unroll(x, kernels):
    for kernel in kernels:
      x = x @ kernel
    return x

  arguments = _ones(4, 8), _ones(5, 8, 8)
  compiled = jax.jit(unroll).lower(*arguments).compile()
  flops = count_flops(jax.make_jaxpr(scan)(*arguments))
  assert flops == compiled.cost_analysis()["flops"] == 5 * 2 * 4 * 8 * 8
