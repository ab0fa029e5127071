"""Tiny random T5 models, ours and torch's, with the same weights."""

import functools

import jax
import numpy as np
import pytest

from xqg_jax.models.t5 import network

VOCAB_SIZE = 300
CONFIG = network.T5Config(
  vocab_size=VOCAB_SIZE,
  emb_dim=16,
  num_heads=2,
  head_dim=8,
  mlp_dim=24,
  num_encoder_layers=1,
  num_decoder_layers=1,
)
# Head sizes 5, 8 and 16; heads times head size below, at and above the width.
SHAPES = [
  {"d_model": 16, "d_kv": 5, "num_heads": 2, "d_ff": 24, "num_layers": 2},
  {"d_model": 24, "d_kv": 8, "num_heads": 3, "d_ff": 40, "num_layers": 1},
  {"d_model": 20, "d_kv": 16, "num_heads": 4, "d_ff": 28, "num_layers": 3},
]


def make_torch_model(shape, *, seed=0, kind="MT5", **settings):
  """A torch model with an output layer of its own unless it is tied."""
  torch = pytest.importorskip("torch", reason="torch is the reference")
  transformers = pytest.importorskip("transformers")
  config = getattr(transformers, f"{kind}Config")(
    vocab_size=VOCAB_SIZE,
    dropout_rate=0.0,
    feed_forward_proj="gated-gelu",
    decoder_start_token_id=0,
    **shape,
    **settings,
  )
  torch.manual_seed(seed)
  model = getattr(transformers, f"{kind}ForConditionalGeneration")(config)
  with torch.no_grad():
    for name, value in model.named_parameters():
      if "layer_norm" in name:
        value.copy_(1 + 0.2 * torch.randn_like(value))
  return model.eval()


def untie(model):
  """Gives a torch model an output layer of its own."""
  import torch

  weight = torch.randn_like(model.shared.weight) / 4
  model.lm_head.weight = torch.nn.Parameter(weight)
  return model


def to_tensors(model):
  return {k: v.detach().numpy() for k, v in model.state_dict().items()}


def to_ours(model, **overrides):
  """(module, params) of a torch model."""
  values = model.config.to_dict() | overrides
  config = network.T5Config.from_hf(values)
  return network.T5(config=config), network.params_from_hf(
    to_tensors(model), config
  )


def make_rows(lengths, row_length, *, seed=0):
  """Random tokens, padded with 0, each row ending with </s> = 1."""
  rng = np.random.default_rng(seed)
  rows = rng.integers(2, VOCAB_SIZE, (len(lengths), row_length))
  for row, length in zip(rows, lengths, strict=True):
    row[length - 1] = 1
    row[length:] = 0
  return rows.astype(np.int32)


def shift_right(targets):
  return np.pad(targets, ((0, 0), (1, 0)))[:, :-1]


def apply(module, params, *args, **settings):
  """`module.apply`, jitted, on host arrays."""
  call = jax.jit(functools.partial(module.apply, **settings))
  return call({"params": params}, *args)
