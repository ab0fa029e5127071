"""Attention against numpy, and the CPU's form against jax's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xqg_jax.models.attention import attend

SEGMENTS = np.array([[1] * 4 + [2] * 5, [1] * 7 + [0] * 2])
MASK = jnp.array((SEGMENTS[:, :, None] == SEGMENTS[:, None, :])[:, None])


def _inputs():
  rng = np.random.default_rng(0)
  shapes = [(2, 9, 3, 5)] * 3 + [(1, 3, 9, 9)]
  return [jnp.array(rng.normal(size=x), jnp.float32) for x in shapes]


def _by_numpy(query, key, value, bias, scale):
  logits = np.einsum("bqhd,bkhd->bhqk", query, key) * scale + bias
  weights = np.where(MASK, np.exp(logits), 0.0)
  weights /= weights.sum(axis=-1, keepdims=True)
  return np.einsum("bhqk,bkhd->bqhd", weights, value)


@pytest.mark.parametrize("has_bias", [True, False])
def test_attention_is_the_formula(has_bias):
  query, key, value, bias = _inputs()
  given = bias if has_bias else None
  found = jax.jit(lambda *x: attend(*x, mask=MASK, bias=given, scale=0.5))(
    query, key, value
  )
  expected = _by_numpy(query, key, value, bias if has_bias else 0.0, 0.5)
  np.testing.assert_allclose(found, expected, atol=2e-6, rtol=0)


def test_the_form_of_the_cpu_equals_that_of_accelerators():
  query, key, value, bias = _inputs()
  expected = jax.nn.dot_product_attention(
    query, key, value, bias=bias, mask=MASK, scale=0.5
  )
  found = attend(query, key, value, mask=MASK, bias=bias, scale=0.5)
  np.testing.assert_allclose(found, expected, atol=2e-6, rtol=0)


def test_gradients_reach_queries_keys_values_and_bias():
  inputs = _inputs()

  def ours(query, key, value, bias):
    mixed = attend(query, key, value, mask=MASK, bias=bias, scale=0.5)
    return jnp.sum(mixed**2)

  def theirs(query, key, value, bias):
    mixed = jax.nn.dot_product_attention(
      query, key, value, bias=bias, mask=MASK, scale=0.5
    )
    return jnp.sum(mixed**2)

  found, expected = (
    jax.jit(jax.grad(f, argnums=(0, 1, 2, 3)))(*inputs) for f in (ours, theirs)
  )
  for a, b in zip(found, expected, strict=True):
    assert np.abs(b).max() > 0.01
    np.testing.assert_allclose(a, b, atol=1e-5, rtol=0)
