"""CPU forms against those of other devices, by their switch."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xqg_jax.cli.process import keep_freed_memory
from xqg_jax.models.bert.config import BertConfig
from xqg_jax.models.bert.encoder import BertEncoder
from xqg_jax.models.parameters import init_params
from xqg_jax.runtime import cpu_forms

SIZES = BertConfig(
  vocab_size=50,
  hidden_size=32,
  num_hidden_layers=2,
  num_attention_heads=4,
  intermediate_size=64,
)


def gradients(dtype):
  """Of a loss of the last hidden states; also how often a primitive is used."""
  module = BertEncoder(SIZES, dtype)
  tokens = jnp.asarray(np.random.default_rng(0).integers(0, 50, (3, 10)))
  rows = tokens, jnp.ones_like(tokens), jnp.tile(jnp.arange(10), (3, 1))

  def loss(params):
    hidden = module.apply({"params": params}, *rows)
    return jnp.sum(jnp.sin(hidden.astype(jnp.float32)))

  params = init_params(BertEncoder(SIZES), jax.random.key(0))
  found = jax.tree.leaves(jax.grad(loss)(params))
  return np.concatenate([x.ravel() for x in found]), str(
    jax.make_jaxpr(loss)(params)
  )


@pytest.mark.parametrize(
  ("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 0.02)]
)
def test_both_forms_give_the_same_gradients(monkeypatch, dtype, tolerance):
  found, program = gradients(dtype)
  assert "platform_index" in program
  monkeypatch.setenv("XQG_CPU_FORMS", "0")
  others, program = gradients(dtype)
  assert "bfloat16_product" not in program
  assert np.linalg.norm(found - others) < tolerance * np.linalg.norm(others)


def test_the_switch(monkeypatch):
  (device,) = jax.local_devices()[:1]
  assert cpu_forms.are_for(device)
  monkeypatch.setenv("XQG_CPU_FORMS", "0")
  assert not cpu_forms.are_for(device)
  assert not keep_freed_memory()
  double = cpu_forms.by_platform(2, cpu=lambda x: -x, default=lambda x: x + x)
  assert double == 4
  monkeypatch.delenv("XQG_CPU_FORMS")
  assert cpu_forms.by_platform(2, cpu=lambda x: -x, default=abs) == -2


def test_asking_for_the_switch_does_not_load_jax():
  code = "import sys, xqg_jax.cli.process; print('jax' in sys.modules)"
  run = subprocess.run([sys.executable, "-c", code], capture_output=True)
  assert run.stdout.strip() == b"False", run.stderr
