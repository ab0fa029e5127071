"""The encoder against torch, packed rows, sizes, and the config."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xqg_jax.errors import InputError
from xqg_jax.models.bert import encoder

ATOL = 1e-5

# Head sizes 8, 6 and 16; one to three layers; with and without token types.
SHAPES = [
  {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2},
  {
    "hidden_size": 18,
    "num_attention_heads": 3,
    "num_hidden_layers": 1,
    "type_vocab_size": 1,
  },
  {
    "hidden_size": 48,
    "num_attention_heads": 3,
    "num_hidden_layers": 3,
    "max_position_embeddings": 700,
    "layer_norm_eps": 1e-5,
  },
]
FAMILIES = {"bert": 0, "xlm-roberta": 1, "roberta": 1}


def _config(shape, model_type="bert") -> encoder.BertConfig:
  return encoder.BertConfig(
    vocab_size=101,
    intermediate_size=2 * shape["hidden_size"] + 4,
    model_type=model_type,
    pad_token_id=FAMILIES[model_type],
    **shape,
  )


def _rows(config, lengths, row_length, seed=0):
  """Rows of one text each, padded to `row_length`."""
  rng = np.random.default_rng(seed)
  tokens = rng.integers(5, config.vocab_size, (len(lengths), row_length))
  positions = np.tile(np.arange(row_length), (len(lengths), 1))
  segment_ids = (positions < np.array(lengths)[:, None]).astype(np.int32)
  tokens = np.where(segment_ids, tokens, config.pad_token_id)
  positions = np.where(segment_ids, positions, 0)
  return tuple(
    jnp.asarray(x, jnp.int32) for x in (tokens, segment_ids, positions)
  )


def _random_params(config, seed=0):
  """Parameters with every value random, norms and biases too."""
  dummy = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  module = encoder.BertEncoder(config)
  shapes = jax.eval_shape(module.init, jax.random.key(0), *(dummy,) * 3)
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    is_scale = path[-1].key == "scale"
    values = is_scale + 0.1 * rng.normal(size=leaf.shape)
    return jnp.asarray(values, jnp.float32)

  return jax.tree_util.tree_map_with_path(draw, shapes["params"])


def _torch_model(config):
  torch = pytest.importorskip("torch", reason="torch is the reference")
  transformers = pytest.importorskip(
    "transformers", reason="transformers is the reference"
  )
  torch.manual_seed(0)
  values = config.to_hf()
  settings = transformers.AutoConfig.for_model(**values)
  model_class = getattr(transformers, values["architectures"][0])
  model = model_class(settings, add_pooling_layer=True).eval()
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(0.1 * torch.randn_like(parameter))
  return torch, model


def _tensors(model):
  return {name: x.numpy() for name, x in model.state_dict().items()}


@pytest.mark.parametrize(
  ("shape", "model_type"),
  [
    (SHAPES[0], "bert"),
    (SHAPES[0], "xlm-roberta"),
    (SHAPES[1], "roberta"),
    (SHAPES[1], "bert"),
    (SHAPES[2], "xlm-roberta"),
  ],
)
def test_last_hidden_state_equals_torch(shape, model_type):
  config = _config(shape, model_type)
  torch, model = _torch_model(config)
  params = encoder.params_from_hf(_tensors(model), config)
  module = encoder.BertEncoder(config)
  long = config.max_length
  for lengths, row_length in [
    ((1, 2, 7, 7), 7),
    ((5, 1, 3), 11),
    ((long, 37), long),
  ]:
    rows = _rows(config, lengths, row_length)
    found = jax.jit(module.apply)({"params": params}, *rows)
    tokens, segment_ids = (
      torch.tensor(np.asarray(x), dtype=torch.long) for x in rows[:2]
    )
    with torch.no_grad():
      expected = model(tokens, attention_mask=segment_ids).last_hidden_state
    real = np.asarray(rows[1]) > 0
    np.testing.assert_allclose(
      np.asarray(found)[real], expected.numpy()[real], atol=ATOL, rtol=0
    )


@pytest.mark.parametrize(
  ("shape", "model_type"),
  [
    (SHAPES[0], "bert"),
    (SHAPES[0], "xlm-roberta"),
    (SHAPES[1], "bert"),
    (SHAPES[2], "xlm-roberta"),
  ],
)
def test_gradients_equal_torch(shape, model_type):
  config = _config(shape, model_type)
  torch, model = _torch_model(config)
  params = encoder.params_from_hf(_tensors(model), config)
  rows = _rows(config, (4, 9, 6), 9)
  mask = np.asarray(rows[1], np.float32)[..., None]

  def loss(params):
    hidden = encoder.BertEncoder(config).apply({"params": params}, *rows)
    return jnp.sum(jnp.tanh(hidden) * mask) / mask.sum()

  found = encoder.params_to_hf(jax.jit(jax.grad(loss))(params), config)
  tokens, segment_ids = (
    torch.tensor(np.asarray(x), dtype=torch.long) for x in rows[:2]
  )
  hidden = model(tokens, attention_mask=segment_ids).last_hidden_state
  (torch.sum(torch.tanh(hidden) * torch.tensor(mask)) / mask.sum()).backward()
  expected = dict(model.named_parameters())
  for name, gradient in found.items():
    # torch keeps no gradient for the padding token's row.
    reference = expected[name].grad.numpy()
    np.testing.assert_allclose(
      gradient, reference, atol=1e-4, rtol=0, err_msg=name
    )


@pytest.mark.parametrize("model_type", ["bert", "xlm-roberta"])
def test_packed_rows_equal_one_by_one(model_type):
  config = _config(SHAPES[0], model_type)
  params, module = _random_params(config), encoder.BertEncoder(config)
  texts = [
    np.random.default_rng(n).integers(5, 100, n) for n in (4, 1, 6, 3, 5, 2)
  ]
  rows = [texts[:3], texts[3:]]
  packed = np.zeros((3, 2, 13), np.int32)
  packed[0] = config.pad_token_id
  for row, members in enumerate(rows):
    start = 0
    for segment, text in enumerate(members, start=1):
      part = (row, slice(start, start + len(text)))
      packed[0][part] = text
      packed[1][part] = segment
      packed[2][part] = np.arange(len(text))
      start += len(text)
  encode = jax.jit(module.apply)
  hidden = encode({"params": params}, *map(jnp.asarray, packed))
  for row, members in enumerate(rows):
    for segment, text in enumerate(members, start=1):
      alone = np.zeros_like(packed)
      alone[:, 0, : len(text)] = text, np.ones(len(text)), np.arange(len(text))
      expected = encode({"params": params}, *map(jnp.asarray, alone))
      np.testing.assert_allclose(
        np.asarray(hidden)[row][packed[1][row] == segment],
        expected[0, : len(text)],
        atol=2e-6,
        rtol=0,
      )


def test_bfloat16_stays_near_float32():
  config = _config(SHAPES[0])
  params = _random_params(config)
  rows = _rows(config, (3, 9, 6), 9)
  exact, rough = (
    jax.jit(encoder.BertEncoder(config, dtype).apply)({"params": params}, *rows)
    for dtype in (jnp.float32, jnp.bfloat16)
  )
  assert rough.dtype == jnp.bfloat16
  real = np.asarray(rows[1]) > 0
  exact, rough = (np.asarray(x, np.float32)[real] for x in (exact, rough))
  relative = np.linalg.norm(rough - exact) / np.linalg.norm(exact)
  assert 0 < relative < 0.02


def test_parameters_stay_float32_and_carry_logical_axes():
  config = _config(SHAPES[0])
  dummy = jnp.zeros((1, 1), jnp.int32)
  variables = jax.eval_shape(
    encoder.BertEncoder(config, jnp.bfloat16).init,
    jax.random.key(0),
    *(dummy,) * 3,
  )
  assert {x.dtype for x in jax.tree.leaves(variables["params"])} == {
    jnp.dtype("float32")
  }
  axes = variables["params_axes"]
  layer = axes["layers_0"]
  assert layer["attention"]["query"]["kernel_axes"].names == (
    "embed",
    "joined_kv",
  )
  assert layer["attention"]["out"]["kernel_axes"].names == (
    "joined_kv",
    "embed",
  )
  assert layer["wi"]["kernel_axes"].names == ("embed", "mlp")
  assert axes["embeddings"]["word_axes"].names == ("vocab", "embed")


def test_dropout_needs_a_key_and_changes_values():
  config = _config(SHAPES[0])
  params, module = _random_params(config), encoder.BertEncoder(config)
  rows = _rows(config, (9, 9), 9)

  @jax.jit
  def run(seed):
    return module.apply(
      {"params": params},
      *rows,
      deterministic=False,
      rngs={"dropout": jax.random.key(seed)},
    )

  np.testing.assert_array_equal(run(0), run(0))
  assert not np.allclose(run(0), run(1), atol=1e-3)


@pytest.mark.parametrize("is_joined", [False, True])
def test_kept_tokens_have_the_states_they_have_among_all(is_joined):
  config = _config(SHAPES[2])
  params = _random_params(config)
  if is_joined:
    params = encoder.join_projections(params)
  module = encoder.BertEncoder(config, join_projections=is_joined)
  rows = _rows(config, (9, 6), 9)
  whole = module.apply({"params": params}, *rows)
  kept = jnp.array([[0, 8, 3], [5, 0, 0]])
  some = module.apply({"params": params}, *rows, kept=kept)
  expected = np.take_along_axis(whole, kept[..., None], axis=1)
  np.testing.assert_allclose(some, expected, atol=1e-6)


# -------------------------------------------------------------------- sizes


def _large(**changes):
  return {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    **changes,
  }


BASE = {
  "hidden_size": 768,
  "num_hidden_layers": 12,
  "num_attention_heads": 12,
  "intermediate_size": 3072,
}
SMALL = {
  "hidden_size": 384,
  "num_hidden_layers": 12,
  "num_attention_heads": 12,
  "intermediate_size": 1536,
}
XLMR = {
  "model_type": "xlm-roberta",
  "vocab_size": 250002,
  "max_position_embeddings": 514,
  "type_vocab_size": 1,
  "pad_token_id": 1,
}
# Published counts, all of which include the pooler (hidden * (hidden + 1)).
SIZES = {
  "bert-base-multilingual-cased": ({"vocab_size": 119547, **BASE}, 177853440),
  "bert-base-multilingual-uncased": ({"vocab_size": 105879, **BASE}, 167356416),
  "multilingual-MiniLM-L12-H384": ({"vocab_size": 250037, **SMALL}, 117653760),
  "multilingual-e5-small": ({"vocab_size": 250037, **SMALL}, 117653760),
  "xlm-roberta-base and e5-base": ({**XLMR, **BASE}, 278043648),
  "xlm-roberta-large and e5-large": ({**XLMR, **_large()}, 559890432),
}


@pytest.mark.parametrize("name", SIZES)
def test_real_sizes_have_the_published_number_of_parameters(name):
  values, published = SIZES[name]
  config = encoder.BertConfig(**values)
  dummy = jax.ShapeDtypeStruct((2, 16), jnp.int32)
  module = encoder.BertEncoder(config)
  variables = jax.eval_shape(module.init, jax.random.key(0), *(dummy,) * 3)
  count = sum(math.prod(x.shape) for x in jax.tree.leaves(variables["params"]))
  assert count + config.hidden_size * (config.hidden_size + 1) == published


# ------------------------------------------------------- names and config


def test_tensors_go_to_hugging_face_names_and_back_bit_by_bit():
  config = _config(SHAPES[1], "xlm-roberta")
  rng = np.random.default_rng(0)
  tensors = encoder.params_to_hf(_random_params(config), config)
  tensors = {
    name: rng.normal(size=x.shape).astype(np.float32)
    for name, x in tensors.items()
  }
  prefixed = {f"roberta.{name}": x for name, x in tensors.items()}
  heads = {
    "lm_head.bias": np.zeros(101, np.float32),
    "roberta.pooler.dense.bias": np.zeros(18, np.float32),
    "roberta.embeddings.position_ids": np.arange(512)[None],
  }
  params = encoder.params_from_hf(prefixed | heads, config)
  back = encoder.params_to_hf(params, config)
  assert back.keys() == tensors.keys()
  for name, value in tensors.items():
    assert back[name].tobytes() == value.tobytes()
    assert back[name].shape == value.shape


def test_tensor_names_are_those_of_torch():
  config = _config(SHAPES[0])
  _, model = _torch_model(config)
  expected = {
    name: x.shape
    for name, x in _tensors(model).items()
    if not name.startswith("pooler")
  }
  found = encoder.params_to_hf(_random_params(config), config)
  assert {name: x.shape for name, x in found.items()} == expected


@pytest.mark.parametrize("model_type", FAMILIES)
def test_config_survives_the_round_trip(model_type):
  config = _config(SHAPES[2], model_type)
  assert encoder.BertConfig.from_hf(config.to_hf(), where="c.json") == config


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"model_type": "gpt2"}, "model_type is 'gpt2'"),
    ({"model_type": None}, "model_type is None"),
    ({"hidden_act": "gelu_new"}, "hidden_act is 'gelu_new'"),
    ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
    ({"is_decoder": True}, "is_decoder is True"),
    ({"hidden_size": None}, "no hidden_size in the model"),
    ({"num_attention_heads": 5}, "not a multiple of num_attention_heads 5"),
  ],
)
def test_configs_of_other_models_are_input_errors(change, message):
  values = _config(SHAPES[0]).to_hf() | change
  with pytest.raises(InputError, match=message) as error:
    encoder.BertConfig.from_hf(values, where="folder/config.json")
  assert str(error.value).startswith("folder/config.json: ")


def test_wrong_tensors_are_input_errors():
  config = _config(SHAPES[0])
  tensors = encoder.params_to_hf(_random_params(config), config)
  name = "encoder.layer.1.output.dense.weight"
  with pytest.raises(InputError, match=f"no tensor {name}"):
    encoder.params_from_hf(
      {k: v for k, v in tensors.items() if k != name}, config
    )
  with pytest.raises(InputError, match=r"tensor bert\.adapter has no place"):
    encoder.params_from_hf(tensors | {"bert.adapter": np.zeros(1)}, config)
  with pytest.raises(
    InputError, match=rf"tensor {name} has shape \(68, 32\), expected \(32, 68"
  ):
    encoder.params_from_hf(tensors | {name: tensors[name].T}, config)
