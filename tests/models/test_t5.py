"""The network against torch, packed rows, T5X's names, sizes, conversion."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen import partitioning
from flax.traverse_util import flatten_dict

from tests.helpers import tiny_t5, tiny_t5x
from xqg_jax.errors import InputError
from xqg_jax.models.t5.network import (
  MT5_SIZES,
  T5,
  T5Config,
  params_from_hf,
  params_to_hf,
)

# Shapes of google/mt5-*; counts are those of the published checkpoints, the
# sum over `pytorch_model.bin` (Xue et al. 2021 round them to 300M ... 13B).
PUBLISHED = {
  "small": 300_176_768,
  "base": 582_401_280,
  "large": 1_229_581_312,
  "xl": 3_742_619_648,
  "xxl": 12_921_057_280,
}
TINY = T5Config(
  vocab_size=tiny_t5.VOCAB_SIZE,
  emb_dim=16,
  num_heads=2,
  head_dim=5,
  mlp_dim=24,
  num_encoder_layers=1,
  num_decoder_layers=1,
)


@functools.cache
def _init(config):
  module, row = T5(config=config), jnp.zeros((1, 4), jnp.int32)
  variables = jax.jit(module.init)(jax.random.key(0), row, row, row)
  return module, variables


# ------------------------------------------------------------------- parity


@pytest.mark.parametrize("shape", tiny_t5.SHAPES)
@pytest.mark.parametrize("lengths", [[9, 9, 9], [1, 5, 33], [200, 131, 7]])
def test_encoder_and_logits_equal_torch(shape, lengths):
  import torch

  model = tiny_t5.untie(tiny_t5.make_torch_model(shape))
  module, params = tiny_t5.to_ours(model)
  inputs = tiny_t5.make_rows(lengths, max(lengths))
  targets = tiny_t5.make_rows([4, 12, 7], 12, seed=1)
  with torch.no_grad():
    reference = model(
      input_ids=torch.tensor(inputs).long(),
      attention_mask=torch.tensor(inputs != 0).long(),
      decoder_input_ids=torch.tensor(tiny_t5.shift_right(targets)).long(),
    )
  encoded = tiny_t5.apply(module, params, inputs, method="encode")
  logits = tiny_t5.apply(
    module, params, inputs, tiny_t5.shift_right(targets), targets
  )
  expected = reference.encoder_last_hidden_state.numpy()
  is_text = inputs != 0
  np.testing.assert_allclose(encoded[is_text], expected[is_text], atol=1e-5)
  is_text = targets != 0
  np.testing.assert_allclose(
    logits[is_text], reference.logits.numpy()[is_text], atol=1e-5
  )


def test_tied_and_scaled_t5_equals_torch():
  import torch

  model = tiny_t5.make_torch_model(tiny_t5.SHAPES[0], kind="T5")
  module, params = tiny_t5.to_ours(model)
  assert module.config.logits_via_embedding
  assert "logits_dense" not in params["decoder"]
  targets = tiny_t5.make_rows([6, 6], 6)
  inputs = torch.tensor(tiny_t5.shift_right(targets)).long()
  with torch.no_grad():
    reference = model(input_ids=inputs, decoder_input_ids=inputs).logits
  # Torch masks nothing here, so padding has to be marked as text.
  ones = np.ones_like(targets)
  logits = tiny_t5.apply(
    module, params, inputs.numpy(), inputs.numpy(), targets, ones, ones
  )
  np.testing.assert_allclose(logits, reference.numpy(), atol=1e-5)


def test_mt5_without_output_layer_takes_the_embedding_unscaled():
  import torch

  model = tiny_t5.make_torch_model(tiny_t5.SHAPES[1])
  with torch.no_grad():
    # Unscaled products with rows of deviation 1 would be about 5, not 1.
    model.shared.weight.div_(4)
  tensors = tiny_t5.to_tensors(model)
  tensors.pop("lm_head.weight", None)
  config = T5Config.from_hf(model.config.to_dict())
  params = params_from_hf(tensors, config)
  rows = tiny_t5.make_rows([6, 6], 6)
  with torch.no_grad():
    reference = model(
      input_ids=torch.tensor(rows).long(),
      decoder_input_ids=torch.tensor(rows).long(),
    ).logits
  logits = tiny_t5.apply(T5(config=config), params, rows, rows, rows)
  np.testing.assert_allclose(logits, reference.numpy(), atol=1e-5)


@pytest.mark.parametrize(
  "shape",
  [
    *tiny_t5.SHAPES[:2],
    pytest.param(tiny_t5.SHAPES[2], marks=pytest.mark.slow),
  ],
)
def test_gradients_equal_torch(shape):
  import torch

  model = tiny_t5.untie(tiny_t5.make_torch_model(shape))
  module, params = tiny_t5.to_ours(model)
  inputs, targets = (tiny_t5.make_rows([n, n], n) for n in (11, 5))
  shifted = tiny_t5.shift_right(targets)
  model(
    input_ids=torch.tensor(inputs).long(), labels=torch.tensor(targets).long()
  ).loss.backward()

  def loss(params):
    logits = tiny_t5.apply(module, params, inputs, shifted, targets)
    chosen = jnp.take_along_axis(
      jax.nn.log_softmax(logits), targets[..., None], axis=-1
    )
    return -chosen.mean()

  ours = params_to_hf(jax.grad(loss)(params), module.config)
  for name, value in model.named_parameters():
    np.testing.assert_allclose(
      ours[name], value.grad.numpy(), atol=1e-4, err_msg=name
    )


def test_bfloat16_stays_near_float32():
  module, variables = _init(TINY)
  rows = tiny_t5.make_rows([40, 13], 40)
  half = T5(config=dataclasses.replace(TINY, dtype="bfloat16"))
  args = variables["params"], rows, rows, rows
  exact, rounded = tiny_t5.apply(module, *args), tiny_t5.apply(half, *args)
  assert rounded.dtype == jnp.float32
  # bfloat16 has 8 bits: 2**-8 a rounding, and about a dozen roundings.
  assert float(jnp.abs(exact - rounded).max() / exact.std()) < 0.05


# ----------------------------------------------------------------- segments


def test_packed_rows_equal_separate_ones():
  module, variables = _init(TINY)
  params = variables["params"]
  first, second = (tiny_t5.make_rows([n], n, seed=n) for n in (30, 12))
  packed = np.concatenate([first, second, np.zeros((1, 6), int)], axis=1)
  segment_ids = np.array([[1] * 30 + [2] * 12 + [0] * 6])
  together = tiny_t5.apply(module, params, packed, segment_ids, method="encode")
  for rows, start in ((first, 0), (second, 30)):
    alone = tiny_t5.apply(module, params, rows, method="encode")
    end = start + rows.shape[1]
    np.testing.assert_allclose(together[:, start:end], alone, atol=1e-5)


def test_packed_targets_equal_separate_ones():
  module, variables = _init(TINY)
  params = variables["params"]
  inputs = [tiny_t5.make_rows([n], n, seed=n) for n in (9, 14)]
  targets = [tiny_t5.make_rows([n], n, seed=n) for n in (5, 8)]
  together = tiny_t5.apply(
    module,
    params,
    np.concatenate(inputs, axis=1),
    np.concatenate([tiny_t5.shift_right(t) for t in targets], axis=1),
    np.concatenate(targets, axis=1),
    np.array([[1] * 9 + [2] * 14]),
    np.array([[1] * 5 + [2] * 8]),
  )
  for rows, target, part in zip(
    inputs, targets, (slice(0, 5), slice(5, 13)), strict=True
  ):
    alone = tiny_t5.apply(
      module, params, rows, tiny_t5.shift_right(target), target
    )
    np.testing.assert_allclose(together[:, part], alone, atol=1e-5)


def test_padding_changes_nothing():
  module, variables = _init(TINY)
  params = variables["params"]
  rows = tiny_t5.make_rows([10], 10)
  wide = np.pad(rows, ((0, 0), (0, 7)))
  np.testing.assert_allclose(
    tiny_t5.apply(module, params, wide, rows, rows),
    tiny_t5.apply(module, params, rows, rows, rows),
    atol=1e-5,
  )


def test_parts_make_the_whole():
  module, variables = _init(TINY)
  params = variables["params"]
  rows = tiny_t5.make_rows([8, 3], 8)
  hidden = tiny_t5.apply(
    module, params, rows, rows, rows, method="decode_hidden"
  )
  assert hidden.shape == (2, 8, TINY.emb_dim)
  np.testing.assert_array_equal(
    tiny_t5.apply(module, params, hidden, method="logits"),
    tiny_t5.apply(module, params, rows, rows, rows),
  )


def test_dropout_needs_its_rng_and_follows_it():
  module, variables = _init(TINY)
  rows = jnp.asarray(tiny_t5.make_rows([8, 3], 8))

  @jax.jit
  def run(seed):
    return module.apply(
      {"params": variables["params"]},
      rows,
      rows,
      rows,
      deterministic=False,
      rngs={"dropout": jax.random.key(seed)},
    )

  np.testing.assert_array_equal(run(0), run(0))
  assert not np.allclose(run(0), run(1))


def test_relative_buckets_equal_torch():
  pytest.importorskip("torch")
  import torch
  from transformers.models.mt5 import modeling_mt5

  from xqg_jax.models.t5.layers import relative_position_buckets

  distances = np.arange(-700, 700)
  for is_two_way in (True, False):
    expected = modeling_mt5.MT5Attention._relative_position_bucket(
      torch.tensor(distances), bidirectional=is_two_way
    )
    ours = relative_position_buckets(
      jnp.asarray(distances),
      bidirectional=is_two_way,
      num_buckets=32,
      max_distance=128,
    )
    np.testing.assert_array_equal(ours, expected.numpy())


# ------------------------------------------------------------- names, sizes


# (path, shape, logical axes) as `t5x.examples.t5.network` has them, for one
# layer each; E = 16 embed, J = 10 joined_kv, M = 24 mlp.
ATTENTION = [
  ("query", (16, 10), ("embed", "joined_kv")),
  ("key", (16, 10), ("embed", "joined_kv")),
  ("value", (16, 10), ("embed", "joined_kv")),
  ("out", (10, 16), ("joined_kv", "embed")),
]
MLP = [
  ("wi_0", (16, 24), ("embed", "mlp")),
  ("wi_1", (16, 24), ("embed", "mlp")),
  ("wo", (24, 16), ("mlp", "embed")),
]
NORMS = [
  "encoder/encoder_norm",
  "encoder/layers_0/pre_attention_layer_norm",
  "encoder/layers_0/pre_mlp_layer_norm",
  "decoder/decoder_norm",
  "decoder/layers_0/pre_self_attention_layer_norm",
  "decoder/layers_0/pre_cross_attention_layer_norm",
  "decoder/layers_0/pre_mlp_layer_norm",
]


def _t5x_names():
  names = {
    "token_embedder/embedding": ((300, 16), ("vocab", "embed")),
    "decoder/logits_dense/kernel": ((16, 300), ("embed", "vocab")),
  }
  for stack in ("encoder", "decoder"):
    bias = f"{stack}/relpos_bias/rel_embedding"
    names[bias] = ((2, 32), ("heads", "relpos_buckets"))
    for name, shape, axes in MLP:
      names[f"{stack}/layers_0/mlp/{name}/kernel"] = (shape, axes)
  for part in (
    "encoder/layers_0/attention",
    "decoder/layers_0/self_attention",
    "decoder/layers_0/encoder_decoder_attention",
  ):
    for name, shape, axes in ATTENTION:
      names[f"{part}/{name}/kernel"] = (shape, axes)
  return names | {f"{norm}/scale": ((16,), ("embed",)) for norm in NORMS}


def test_names_shapes_and_axes_are_those_of_t5x():
  _, variables = _init(TINY)
  axes = partitioning.get_axis_names(variables["params_axes"])
  axes = flatten_dict(axes, sep="/")
  found = {
    name: (value.shape, tuple(axes[name]))
    for name, value in flatten_dict(variables["params"], sep="/").items()
  }
  assert found == _t5x_names()


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
def test_parameters_of_the_stock_network_of_t5x_are_ours(tied):
  network = pytest.importorskip(
    "t5x.examples.t5.network", reason=tiny_t5x.GET_T5X
  )
  shape = {
    field: getattr(TINY, field)
    for field in (
      "vocab_size emb_dim num_heads head_dim mlp_dim num_encoder_layers "
      "num_decoder_layers"
    ).split()
  }
  shape["logits_via_embedding"] = tied
  stock = network.Transformer(
    network.T5Config(mlp_activations=("gelu", "linear"), **shape)
  )
  inputs = tiny_t5.make_rows([150, 20], 150)
  targets = tiny_t5.make_rows([9, 5], 9)
  args = inputs, tiny_t5.shift_right(targets), targets
  variables = stock.init(jax.random.key(0), *args, enable_dropout=False)
  expected = stock.apply(variables, *args, enable_dropout=False)
  ours = T5(config=T5Config(**shape))
  logits = tiny_t5.apply(ours, variables["params"], *args)
  is_text = targets != 0
  np.testing.assert_allclose(logits[is_text], expected[is_text], atol=1e-5)


@pytest.mark.parametrize("size", PUBLISHED)
def test_sizes_have_the_published_number_of_parameters(size):
  module = T5(config=MT5_SIZES[size])
  row = jax.ShapeDtypeStruct((1, 4), jnp.int32)
  shapes = jax.eval_shape(module.init, jax.random.key(0), row, row, row)
  leaves = jax.tree.leaves(shapes["params"])
  assert sum(math.prod(leaf.shape) for leaf in leaves) == PUBLISHED[size]


# ---------------------------------------------------------------- conversion


@pytest.mark.parametrize("tied", [False, True])
def test_round_trip_is_byte_identical(tied):
  if tied:
    model = tiny_t5.make_torch_model(tiny_t5.SHAPES[0], kind="T5")
  else:
    model = tiny_t5.untie(tiny_t5.make_torch_model(tiny_t5.SHAPES[0]))
  tensors = tiny_t5.to_tensors(model)
  module, params = tiny_t5.to_ours(model)
  back = params_to_hf(params, module.config)
  kept = {name for name in tensors if "embed_tokens" not in name}
  assert set(back) == kept - ({"lm_head.weight"} if tied else set())
  for name, tensor in back.items():
    assert tensor.tobytes() == tensors[name].tobytes(), name
    assert tensor.shape == tensors[name].shape


@pytest.mark.parametrize("tied", [False, True])
def test_config_survives_the_round_trip(tied):
  config = dataclasses.replace(TINY, logits_via_embedding=tied)
  assert T5Config.from_hf(config.to_hf()) == config


def _tensors():
  config = TINY
  _, variables = _init(config)
  return params_to_hf(variables["params"], config)


@pytest.mark.parametrize(
  ("name", "value", "expected"),
  [
    ("encoder.final_layer_norm.weight", None, r"\(1 of 28 are missing\)"),
    ("encoder.block.7.layer.0.layer_norm.weight", np.ones(16), "has no place"),
    ("shared.weight", np.ones((299, 16)), r"\(299, 16\), expected \(300, 16\)"),
  ],
)
def test_unfit_tensors_are_named(name, value, expected):
  tensors = {k: v for k, v in _tensors().items() if k != name}
  if value is not None:
    tensors[name] = value
  with pytest.raises(InputError, match=f"tensor {name} .*{expected}"):
    params_from_hf(tensors, TINY)


def test_float16_is_refused():
  with pytest.raises(InputError, match=r"float16.*use bfloat16"):
    dataclasses.replace(TINY, dtype="float16")


@pytest.mark.parametrize(
  ("change", "expected"),
  [
    ({"model_type": "bert"}, "'bert'.*'mt5' or 't5'"),
    ({"feed_forward_proj": "relu"}, "'relu'.*gated-gelu"),
    ({"d_kv": None}, "d_kv"),
  ],
)
def test_unfit_configs_are_named(change, expected):
  values = TINY.to_hf() | change
  values = {k: v for k, v in values.items() if v is not None}
  with pytest.raises(InputError, match=f"config.json: .*{expected}"):
    T5Config.from_hf(values, where="config.json")
