"""Attention against numpy, and the CPU's form against jax's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xqg_jax.models.layers.attention import attend

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


def _lower_for_cuda(dtype, has_bias, head_dim=64, length=16, gradient=False):
  """The program for CUDA, as text; nothing of it runs."""
  shapes = [(2, length, 3, head_dim)] * 3
  query, key, value = (jax.ShapeDtypeStruct(x, dtype) for x in shapes)
  mask = jax.ShapeDtypeStruct((2, 1, length, length), bool)
  bias = jax.ShapeDtypeStruct((1, 3, length, length), jnp.float32)

  def run(query, key, value, mask, bias):
    given = bias if has_bias else None
    mixed = attend(query, key, value, mask=mask, bias=given)
    return jnp.sum(mixed.astype(jnp.float32) ** 2) if gradient else mixed

  call = jax.grad(run, argnums=(0, 1, 2, 4)) if gradient else run
  traced = jax.jit(call).trace(query, key, value, mask, bias)
  return traced.lower(lowering_platforms=("cuda",)).as_text()


@pytest.fixture
def cudnn(monkeypatch):
  """Lets jax believe that cuDNN is installed."""
  module = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
  monkeypatch.setattr(module, "check_cudnn_version", lambda: 91000)


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_cuda_takes_cudnn_for_16_bits(cudnn, dtype, has_bias):
  assert "__cudnn$fmha" in _lower_for_cuda(dtype, has_bias)
  both = _lower_for_cuda(dtype, has_bias, gradient=True)
  assert "__cudnn$fmhaScaleBiasSoftmaxBackward" in both


@pytest.mark.parametrize(
  ("dtype", "head_dim", "length"),
  [
    (jnp.float32, 64, 16),
    (jnp.bfloat16, 60, 16),
    (jnp.bfloat16, 512, 16),
    (jnp.bfloat16, 64, 15),
  ],
)
@pytest.mark.parametrize("has_bias", [True, False])
def test_cuda_takes_xla_for_the_rest(cudnn, dtype, head_dim, length, has_bias):
  for gradient in (False, True):
    text = _lower_for_cuda(dtype, has_bias, head_dim, length, gradient)
    assert "cudnn" not in text
    assert "dot_general" in text


def test_cuda_takes_xla_where_cudnn_is_not_installed(monkeypatch):
  module = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
  monkeypatch.setattr(module, "cuda_versions", None)
  assert "cudnn" not in _lower_for_cuda(jnp.bfloat16, True)


@pytest.mark.parametrize("has_bias", [True, False])
def test_the_branch_for_cuda_changes_nothing_on_the_cpu(monkeypatch, has_bias):
  query, key, value = (
    jnp.asarray(np.random.default_rng(n).normal(size=(2, 10, 3, 8)), "bfloat16")
    for n in range(3)
  )
  bias = jnp.ones((1, 3, 10, 10)) if has_bias else None
  mask = jnp.tril(jnp.ones((2, 1, 10, 10), bool))

  def loss(query, key, value):
    mixed = attend(query, key, value, mask=mask, bias=bias)
    return jnp.sum(mixed.astype(jnp.float32) ** 2)

  module = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
  results = []
  for version in (None, 91000):
    if version:
      monkeypatch.setattr(module, "check_cudnn_version", lambda: 91000)
    jax.clear_caches()
    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
    results.append(step(query, key, value))
  jax.tree.map(np.testing.assert_array_equal, *results)
