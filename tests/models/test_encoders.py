"""BERT, XLM-R and T5's encoder behind one set of functions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.tiny_t5 import (
  SHAPES,
  make_rows,
  make_torch_model,
  to_tensors,
)
from xqg_jax.errors import InputError
from xqg_jax.models.bert.encoder import BertConfig
from xqg_jax.models.encoder_families import (
  encoder_config_to_hf,
  encoder_params_from_hf,
  encoder_params_to_hf,
  get_max_length,
  get_width,
  make_encoder,
  read_encoder_config,
  with_dropout,
)
from xqg_jax.models.parameters import param_shapes
from xqg_jax.models.t5.network import MT5_SIZES, T5Config

BERT = BertConfig(
  vocab_size=70,
  hidden_size=16,
  num_hidden_layers=1,
  num_attention_heads=2,
  intermediate_size=24,
  max_position_embeddings=40,
)
XLM_R = dataclasses.replace(BERT, model_type="xlm-roberta", pad_token_id=1)
T5 = T5Config(
  vocab_size=70,
  emb_dim=20,
  num_heads=2,
  head_dim=6,
  mlp_dim=24,
  num_encoder_layers=2,
  num_decoder_layers=1,
)


@pytest.mark.slow
def test_hidden_states_of_t5_equal_torch():
  torch = pytest.importorskip("torch", reason="torch is the reference")
  for shape in SHAPES[:2]:
    model = make_torch_model(shape)
    values = model.config.to_dict()
    config = read_encoder_config(values, "config.json")
    tensors = to_tensors(model)
    assert any(name.startswith("decoder.") for name in tensors)
    params = encoder_params_from_hf(tensors, config)
    assert params.keys() == {"token_embedder", "encoder"}
    lengths = [1, 7, 30, 12]
    rows = make_rows(lengths, 30)
    mask = (rows > 0).astype(np.int32)
    with torch.no_grad():
      expected = model.encoder(
        input_ids=torch.tensor(rows), attention_mask=torch.tensor(mask)
      ).last_hidden_state.numpy()
    positions = np.arange(30, dtype=np.int32) * mask
    apply = jax.jit(make_encoder(config).apply)
    found = apply({"params": params}, rows, mask, positions)
    np.testing.assert_allclose(
      found * mask[..., None], expected * mask[..., None], atol=1e-5
    )
    back = encoder_params_to_hf(params, config)
    assert {name.split(".")[0] for name in back} == {"shared", "encoder"}
    for name, value in back.items():
      assert value.tobytes() == tensors[name].tobytes(), name


def test_unknown_transformers_are_refused_by_their_name():
  with pytest.raises(InputError, match=r"x: model_type is 'gpt2'; .*mt5, t5"):
    read_encoder_config({"model_type": "gpt2"}, "x")


def test_configurations_come_back_from_their_json():
  for config in (BERT, XLM_R, T5):
    written = encoder_config_to_hf(config)
    assert read_encoder_config(written, "config.json") == config


def test_what_differs_between_them():
  assert [get_width(config) for config in (BERT, XLM_R, T5)] == [16, 16, 20]
  limits = [get_max_length(config) for config in (BERT, XLM_R, T5)]
  assert limits == [40, 38, None]
  assert with_dropout(T5, 0.3) == dataclasses.replace(T5, dropout_rate=0.3)
  assert with_dropout(BERT, 0.3) == dataclasses.replace(
    BERT, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3
  )


@pytest.mark.parametrize(
  ("size", "count"),
  # Of `MT5EncoderModel` with the released config.json of each size.
  [
    ("small", 146_940_608),
    ("base", 277_040_256),
    ("large", 564_446_720),
    ("xl", 1_669_958_656),
    ("xxl", 5_655_173_120),
  ],
)
def test_parameter_counts_of_the_real_encoders(size, count):
  shapes = param_shapes(make_encoder(MT5_SIZES[size]))
  total = sum(np.prod(x.shape) for x in jax.tree.leaves(shapes))
  assert total == count


def test_matrix_products_run_in_the_dtype_asked_for():
  for config in (BERT, T5):
    module = make_encoder(config, jnp.bfloat16)
    row = jax.ShapeDtypeStruct((1, 4), jnp.int32)
    out, variables = jax.eval_shape(
      module.init_with_output, jax.random.key(0), row, row, row
    )
    assert out.dtype == jnp.bfloat16
    dtypes = {x.dtype.name for x in jax.tree.leaves(variables["params"])}
    assert dtypes == {"float32"}
