"""Products in bfloat16 on the CPU, their gradients, and dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xqg_jax.models.bert import encoder
from xqg_jax.models.layers.affine import affine
from xqg_jax.models.layers.attention import attend
from xqg_jax.models.layers.dropout import Dropout
from xqg_jax.models.layers.gelu import gelu
from xqg_jax.models.parameters import init_params


def draw(*shape, seed=0, dtype=jnp.float32):
  values = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(values, dtype)


def relative_difference(found, expected):
  found, expected = (
    np.concatenate(
      [np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)]
    )
    for tree in (found, expected)
  )
  return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def run_rows(x, kernel, bias):
  """Row by row under `vmap`, as texts are encoded with dropout."""
  return jax.vmap(lambda row: affine(row[None], kernel, bias)[0])(x)


@pytest.mark.parametrize("run", [affine, run_rows])
def test_affine_maps_and_their_gradients_are_near_float32(run):
  x, kernel, bias = draw(6, 8, 24), draw(24, 40, seed=1), draw(40, seed=2)

  def loss(x, kernel, bias):
    return jnp.mean(jnp.tanh(run(x, kernel, bias).astype(jnp.float32) / 8))

  rounded = x.astype(jnp.bfloat16)
  found = jax.jit(run)(rounded, kernel, bias)
  assert found.dtype == jnp.bfloat16
  assert relative_difference(found, x @ kernel + bias) < 0.01
  found = jax.jit(jax.grad(loss, (0, 1, 2)))(rounded, kernel, bias)
  assert [g.dtype.name for g in found] == ["bfloat16", "float32", "float32"]
  expected = jax.grad(loss, (0, 1, 2))(x, kernel, bias)
  for ours, reference in zip(found, expected, strict=True):
    assert relative_difference(ours, reference) < 0.01


def test_no_row_has_a_kernel_gradient_of_its_own():
  shapes = [(64, 16, 128), (128, 256), (256,)]
  x, kernel, bias = (jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes)

  def loss(x, kernel, bias):
    y = run_rows(x.astype(jnp.bfloat16), kernel, bias)
    return jnp.sum(jnp.square(y.astype(jnp.float32)))

  compiled = jax.jit(jax.grad(loss, (1, 2))).lower(x, kernel, bias).compile()
  of_all_rows = 64 * 128 * 256 * 4
  assert compiled.memory_analysis().temp_size_in_bytes < of_all_rows / 2


@pytest.mark.parametrize("has_bias", [True, False])
def test_gradients_of_attention_are_near_float32(has_bias):
  segments = np.array([[1] * 4 + [2] * 5, [1] * 7 + [0] * 2])
  mask = jnp.array((segments[:, :, None] == segments[:, None, :])[:, None])
  inputs = [draw(2, 9, 3, 8, seed=seed) for seed in range(3)]
  bias = draw(1, 3, 9, 9, seed=3)

  def loss(query, key, value, bias):
    given = bias if has_bias else None
    mixed = attend(query, key, value, mask=mask, bias=given, scale=0.5)
    return jnp.sum(jnp.sin(mixed.astype(jnp.float32)))

  gradient = jax.jit(jax.grad(loss, (0, 1, 2, 3) if has_bias else (0, 1, 2)))
  expected = gradient(*inputs, bias)
  found = gradient(*(x.astype(jnp.bfloat16) for x in inputs), bias)
  for ours, reference in zip(found, expected, strict=True):
    assert relative_difference(ours, reference) < 0.015


def test_gradient_of_gelu_is_that_of_the_formula():
  x = jnp.linspace(-6.0, 6.0, 101)
  found = jax.jit(jax.vmap(jax.grad(gelu)))(x)
  expected = jax.vmap(jax.grad(lambda v: jax.nn.gelu(v, approximate=False)))(x)
  np.testing.assert_allclose(found, expected, atol=2e-6)


def test_gradients_of_an_encoder_in_bfloat16_are_near_float32():
  config = encoder.BertConfig(
    vocab_size=101,
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=4,
    intermediate_size=64,
  )
  tokens = jnp.asarray(np.random.default_rng(0).integers(0, 101, (4, 12)))
  rows = tokens, jnp.ones_like(tokens), jnp.arange(12)[None].repeat(4, axis=0)
  params = init_params(encoder.BertEncoder(config), jax.random.key(0))

  def loss(params, dtype):
    hidden = encoder.BertEncoder(config, dtype).apply({"params": params}, *rows)
    return jnp.mean(jnp.square(hidden.astype(jnp.float32) - 0.1 * draw(32)))

  gradient = jax.jit(jax.grad(loss), static_argnums=1)
  exact, rough = (gradient(params, t) for t in (jnp.float32, jnp.bfloat16))
  assert 0 < relative_difference(rough, exact) < 0.03


# -------------------------------------------------------------------- dropout


def drop(x, rate=0.1, seed=0, **options):
  return Dropout(rate, **options).apply(
    {}, x, False, rngs={"dropout": jax.random.key(seed)}
  )


def test_dropout_drops_the_rate_and_keeps_the_mean():
  ones = jnp.ones((400, 500))
  found = np.asarray(drop(ones))
  # Five standard deviations of a share of 200,000.
  assert abs((found == 0).mean() - 0.1) < 5 * np.sqrt(0.1 * 0.9 / found.size)
  kept = found[found > 0]
  np.testing.assert_allclose(kept, 1 / 0.9, rtol=2e-5)
  # Two values share a word of random bits; they drop independently.
  both = ((found[:, ::2] == 0) & (found[:, 1::2] == 0)).mean()
  assert abs(both - 0.01) < 5 * np.sqrt(0.01 * 0.99 / (found.size / 2))
  np.testing.assert_array_equal(drop(ones), found)
  assert (np.asarray(drop(ones, seed=1)) != found).any()
  assert drop(ones[:3, :5]).shape == (3, 5)


def test_dropout_of_whole_vectors_keeps_the_dtype():
  found = drop(jnp.ones((50, 8), jnp.bfloat16), 0.5, broadcast_dims=(-1,))
  assert found.dtype == jnp.bfloat16
  assert set(np.unique(np.asarray(found, np.float32))) == {0.0, 2.0}
  assert (found == found[:, :1]).all()


def test_no_dropout_needs_no_random_bits():
  x = jnp.arange(3.0)
  assert Dropout(0.5).apply({}, x, True) is x
  assert Dropout(0.0).apply({}, x, False) is x
