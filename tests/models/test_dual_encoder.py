"""Pooling, normalisation and fingerprints of dual encoders."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xqg_jax.data.passages import Passage
from xqg_jax.errors import InputError
from xqg_jax.models.bert.encoder import BertConfig
from xqg_jax.models.dual_encoder.config import (
  DualEncoderConfig,
  ProjectionConfig,
)
from xqg_jax.models.dual_encoder.dual_encoder import (
  DualEncoder,
  make_dual_encoder,
)
from xqg_jax.models.dual_encoder.network import make_network
from xqg_jax.models.dual_encoder.pooling import (
  normalize_embeddings,
  pool_segments,
)
from xqg_jax.models.encoder_families import make_encoder
from xqg_jax.models.parameters import (
  param_axes,
  param_shapes,
  params_fingerprint,
)
from xqg_jax.models.t5.network import T5Config
from xqg_jax.runtime.sharding import make_mesh, params_shardings
from xqg_jax.text.tokenizer import Tokenizer
from xqg_jax.text.tokenizer_training import train_tokenizer

HIDDEN = jnp.arange(2 * 5 * 2, dtype=jnp.float32).reshape(2, 5, 2)
SEGMENTS = jnp.array([[1, 1, 1, 2, 0], [1, 2, 2, 2, 2]])
POSITIONS = jnp.array([[0, 1, 2, 0, 0], [0, 0, 1, 2, 3]])


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
  return train_tokenizer(["a river and a mill"], vocab_size=60, style="bert")


@pytest.fixture(scope="module")
def model_config() -> BertConfig:
  return BertConfig(
    vocab_size=70,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=40,
  )


@pytest.fixture(scope="module")
def params(model_config):
  return _make_params(model_config)


@pytest.fixture(scope="module")
def t5_params():
  return _make_params(T5)


def _make_params(model_config, seed=0):
  """Larger than at the start of training, so that texts differ clearly."""
  network = make_network(make_encoder(model_config), CONFIG)
  shapes = param_shapes(network)
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: jnp.asarray(
      rng.normal(x.ndim == 1, 0.3, x.shape).astype(np.float32)
    ),
    shapes,
  )


def _make_projection(config, seed=0):
  rng = np.random.default_rng(seed)
  shapes = {"kernel": (16, config.size), "bias": (config.size,)}
  return {
    name: rng.normal(0, 0.3, shape).astype(np.float32)
    for name, shape in shapes.items()
    if config.use_bias or name == "kernel"
  }


CONFIG = DualEncoderConfig(
  pooling="mean", normalize=True, query_length=8, passage_length=16
)
T5 = T5Config(
  vocab_size=70,
  emb_dim=16,
  num_heads=2,
  head_dim=6,
  mlp_dim=24,
  num_encoder_layers=2,
  num_decoder_layers=1,
  num_buckets=8,
  max_distance=12,
)
PACKED = (
  jnp.array([[2, 9, 3, 2, 8, 7, 3, 0]]),
  jnp.array([[1, 1, 1, 2, 2, 2, 2, 0]]),
  jnp.array([[0, 1, 2, 0, 1, 2, 3, 0]]),
)
# The same texts each in a row of its own.
ALONE = (
  jnp.array([[2, 9, 3, 0, 0, 0, 0, 0], [2, 8, 7, 3, 0, 0, 0, 0]]),
  jnp.array([[1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0]]),
  jnp.array([[0, 1, 2, 0, 0, 0, 0, 0], [0, 1, 2, 3, 0, 0, 0, 0]]),
)


def _encoder(model_config, params, tokenizer, **changes) -> DualEncoder:
  return make_dual_encoder(
    model_config=model_config,
    params=params,
    config=dataclasses.replace(CONFIG, **changes),
    tokenizer=tokenizer,
  )


@pytest.mark.parametrize(
  ("pooling", "expected"),
  [
    # Means of rows 0..2 and row 3; then row 5 and rows 6..9; no third text.
    ("mean", [[[2, 3], [6, 7], [0, 0]], [[10, 11], [15, 16], [0, 0]]]),
    ("cls", [[[0, 1], [6, 7], [0, 0]], [[10, 11], [12, 13], [0, 0]]]),
  ],
)
def test_pooling_of_packed_rows(pooling, expected):
  found = pool_segments(
    HIDDEN, SEGMENTS, POSITIONS, pooling=pooling, num_segments=3
  )
  np.testing.assert_array_equal(found, np.array(expected, np.float32))


def test_pooling_of_bfloat16_is_float32():
  found = pool_segments(
    HIDDEN.astype(jnp.bfloat16),
    SEGMENTS,
    POSITIONS,
    pooling="mean",
    num_segments=2,
  )
  assert found.dtype == jnp.float32


def test_normalizing_zeros_has_no_nan_in_value_or_gradient():
  vectors = jnp.array([[3.0, 4.0], [0.0, 0.0]])
  gradient = jax.grad(lambda x: jnp.sum(normalize_embeddings(x)))(vectors)
  assert np.isfinite(gradient).all()
  np.testing.assert_allclose(
    np.linalg.norm(normalize_embeddings(vectors), axis=-1), [1, 0], atol=1e-6
  )


def _embed(encoder, side="query", **kwargs):
  """Vectors of the two packed texts, of an absent one, and of them alone."""
  embed = jax.jit(encoder.embed, static_argnames=("side", "num_segments"))
  rows = [jnp.concatenate(pair) for pair in zip(PACKED, ALONE, strict=True)]
  found = embed(encoder.params, *rows, side=side, num_segments=3, **kwargs)
  assert found.shape == (3, 3, encoder.dim)
  assert found.dtype == jnp.float32
  return np.asarray(found)


def _embed_checked(encoder, side="query"):
  """The vectors of the two texts, the same whether packed or alone."""
  found = _embed(encoder, side)
  np.testing.assert_allclose(found[0, :2], found[1:, 0], atol=1e-5)
  np.testing.assert_array_equal(found[0, 2], np.zeros(encoder.dim))
  np.testing.assert_array_equal(found[1:, 1:], np.zeros((2, 2, encoder.dim)))
  return found[0, :2]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("normalize", [True, False])
def test_embeddings_do_not_depend_on_packing(
  model_config, params, tokenizer, pooling, normalize
):
  encoder = _encoder(
    model_config, params, tokenizer, pooling=pooling, normalize=normalize
  )
  lengths = np.linalg.norm(_embed_checked(encoder), axis=-1)
  assert np.allclose(lengths, 1, atol=1e-6) == normalize


def test_a_dropout_key_changes_embeddings(model_config, params, tokenizer):
  encoder = _encoder(model_config, params, tokenizer)
  dropped = _embed(encoder, dropout_rng=jax.random.key(1))
  assert np.abs(dropped - _embed(encoder)).max() > 1e-3


# ------------------------------------------------- projection, separate sides


PROJECTIONS = [
  ProjectionConfig(size=5),
  ProjectionConfig(size=6, use_bias=False, activation="tanh"),
]


@pytest.mark.parametrize(
  ("projection", "normalize"), [(PROJECTIONS[0], True), (PROJECTIONS[1], False)]
)
def test_projection_equals_numpy(
  model_config, params, tokenizer, projection, normalize
):
  layer = _make_projection(projection)
  encoder = _encoder(
    model_config,
    params | {"projection": layer},
    tokenizer,
    projection=projection,
    normalize=normalize,
  )
  assert encoder.dim == projection.size
  pooled = _embed(_encoder(model_config, params, tokenizer, normalize=False))
  expected = pooled[0, :2].astype(np.float64) @ layer["kernel"]
  if projection.use_bias:
    expected += layer["bias"]
  if projection.activation == "tanh":
    expected = np.tanh(expected)
  if normalize:
    expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
  np.testing.assert_allclose(_embed_checked(encoder), expected, atol=1e-5)


def test_projections_start_as_the_configuration_says(model_config):
  for projection in PROJECTIONS:
    config = dataclasses.replace(CONFIG, projection=projection)
    network = make_network(make_encoder(model_config), config)
    shapes = jax.tree.map(lambda x: x.shape, param_shapes(network))
    layer = _make_projection(projection)
    assert shapes["projection"] == {k: x.shape for k, x in layer.items()}


SEPARATE = dataclasses.replace(
  CONFIG, share_encoders=False, projection=ProjectionConfig(size=6)
)


@pytest.fixture(scope="module")
def sides(model_config, params):
  layers = [_make_projection(SEPARATE.projection, seed) for seed in (1, 2)]
  other = _make_params(model_config, seed=3)
  return {
    "query_encoder": params | {"projection": layers[0]},
    "passage_encoder": other | {"projection": layers[1]},
  }


def test_separate_encoders_embed_by_their_own_side(
  model_config, sides, tokenizer
):
  encoder = _encoder(model_config, sides, tokenizer, **_changes(SEPARATE))
  vectors = {}
  for side in ("query", "passage"):
    alone = _encoder(
      model_config,
      sides[f"{side}_encoder"],
      tokenizer,
      projection=SEPARATE.projection,
    )
    vectors[side] = _embed_checked(encoder, side)
    expected = _embed(alone)[0, :2]
    np.testing.assert_allclose(vectors[side], expected, atol=1e-6)
  assert np.abs(vectors["query"] - vectors["passage"]).max() > 0.1


def _changes(config):
  return {
    field.name: getattr(config, field.name)
    for field in dataclasses.fields(config)
  }


def test_gradients_flow_to_the_side_that_embeds(model_config, sides, tokenizer):
  encoder = _encoder(model_config, sides, tokenizer, **_changes(SEPARATE))
  weights = jax.random.normal(jax.random.key(1), (1, 2, 6))

  @jax.jit
  def gradient(params):
    def product(params):
      queries, passages = (
        encoder.embed(params, *PACKED, side=side, num_segments=2)
        for side in ("query", "passage")
      )
      return jnp.sum(weights * queries), jnp.sum(weights * passages)

    return [jax.grad(lambda p, i=i: product(p)[i])(params) for i in (0, 1)]

  query, passage = gradient(sides)
  for found, own, other in (
    (query, "query_encoder", "passage_encoder"),
    (passage, "passage_encoder", "query_encoder"),
  ):
    assert not any(np.any(x) for x in jax.tree.leaves(found[other]))
    assert np.abs(found[own]["projection"]["kernel"]).max() > 1e-3
    assert np.abs(found[own]["encoder"]["layers_0"]["wi"]["kernel"]).max() > 0


@pytest.mark.parametrize("model", ["bert", "t5"])
def test_every_parameter_has_axes_and_a_sharding(model_config, model):
  model = model_config if model == "bert" else T5
  network = make_network(make_encoder(model), SEPARATE)
  axes, shapes = param_axes(network), param_shapes(network)
  shardings = params_shardings(make_mesh(2), axes, shapes)
  jax.tree.map(lambda x, s: s.shard_shape(x.shape), shapes, shardings)
  side = axes["passage_encoder"]
  assert tuple(side["projection"]["kernel"]) == ("embed", "projection")
  assert tuple(side["projection"]["bias"]) == ("projection",)
  table = "word" if model is model_config else "embedding"
  name = "embeddings" if model is model_config else "token_embedder"
  assert tuple(side["encoder"][name][table]) == ("vocab", "embed")
  assert shapes["query_encoder"]["projection"]["kernel"].shape == (16, 6)


# -------------------------------------------------------------- the T5 encoder


def test_t5_embeddings_do_not_depend_on_packing(t5_params, tokenizer):
  vectors = _embed_checked(_encoder(T5, t5_params, tokenizer))
  assert np.abs(vectors[0] - vectors[1]).max() > 0.1


def test_t5_has_no_longest_text(t5_params, tokenizer):
  assert _encoder(T5, t5_params, tokenizer, passage_length=9999).dim == 16


def test_t5_in_bfloat16_stays_near_float32(t5_params, tokenizer):
  exact = _embed(_encoder(T5, t5_params, tokenizer))[0, :2]
  encoder = make_dual_encoder(
    model_config=T5,
    params=t5_params,
    config=CONFIG,
    tokenizer=tokenizer,
    dtype=jnp.bfloat16,
  )
  found = _embed(encoder)[0, :2]
  assert not np.array_equal(found, exact)
  assert np.sum(found * exact, axis=-1).min() > 0.999


def test_t5_refuses_float16_and_says_why(t5_params, tokenizer):
  with pytest.raises(InputError, match=r"'float16' .*overflow"):
    make_dual_encoder(
      model_config=T5,
      params=t5_params,
      config=CONFIG,
      tokenizer=tokenizer,
      dtype=jnp.float16,
    )


# ----------------------------------------------------------- texts, fingerprint


def test_texts_get_prefixes_and_titles(model_config, params, tokenizer):
  encoder = _encoder(
    model_config,
    params,
    tokenizer,
    query_prefix="query: ",
    passage_prefix="passage: ",
  )
  assert encoder.format_query("why?") == "query: why?"
  titled = Passage("1", "It flows.", "River")
  assert encoder.format_passage(titled) == "passage: River It flows."
  assert encoder.format_passage(Passage("1", "It flows.")) == (
    "passage: It flows."
  )


def test_fingerprint_names_the_vectors(model_config, params, tokenizer):
  def fingerprint(model=model_config, weights=params, words=tokenizer, **kw):
    return _encoder(model, weights, words, **kw).fingerprint

  same = fingerprint()
  copied = jax.tree.map(np.array, params)
  assert fingerprint(weights=copied) == same
  # Lengths say how much of a text is read, not which encoder reads it.
  assert fingerprint(query_length=9, passage_length=20) == same

  def changed(weights):
    return jax.tree.map_with_path(
      lambda path, x: x.at[3].add(1e-6) if "wi" in str(path) else x, weights
    )

  def projected(**kwargs):
    projection = ProjectionConfig(**{"size": 4, **kwargs})
    weights = params | {"projection": _make_projection(projection)}
    return fingerprint(weights=weights, projection=projection)

  separate = {"query_encoder": params, "passage_encoder": params}
  others = {
    fingerprint(pooling="cls"),
    fingerprint(normalize=False),
    fingerprint(query_prefix="q "),
    fingerprint(passage_prefix="q "),
    fingerprint(weights=changed(params)),
    fingerprint(dataclasses.replace(model_config, num_attention_heads=4)),
    fingerprint(
      words=train_tokenizer(["another"], vocab_size=60, style="bert")
    ),
    fingerprint(weights=separate, share_encoders=False),
    fingerprint(
      weights=separate | {"passage_encoder": changed(params)},
      share_encoders=False,
    ),
    projected(),
    projected(activation="tanh"),
    projected(use_bias=False),
  }
  assert len(others | {same}) == 13


def test_fingerprint_of_t5_sees_its_constants(t5_params, tokenizer):
  same, *others = (
    _encoder(
      dataclasses.replace(T5, **change), t5_params, tokenizer
    ).fingerprint
    for change in (
      {},
      {"max_distance": 20},
      {"layer_norm_epsilon": 1e-5},
      {"num_heads": 4, "head_dim": 3},
    )
  )
  assert len({same, *others}) == 4
  for change in ({"dropout_rate": 0.5}, {"num_decoder_layers": 9}):
    config = dataclasses.replace(T5, **change)
    assert _encoder(config, t5_params, tokenizer).fingerprint == same


def test_params_fingerprint_sees_paths_shapes_and_dtypes():
  trees = [
    {"a": {"b": np.zeros((2, 3), np.float32)}},
    {"a": {"c": np.zeros((2, 3), np.float32)}},
    {"a": {"b": np.zeros((3, 2), np.float32)}},
    {"a": {"b": np.zeros((2, 3), np.int32)}},
  ]
  assert len({params_fingerprint(tree) for tree in trees}) == 4
  # Golden: stores on disk carry this value, so it may not drift.
  assert params_fingerprint(trees[0])[:16] == "caa0ba15f6d5c0f8"


def test_a_transposed_view_has_the_fingerprint_of_its_values():
  values = np.arange(6, dtype=np.float32).reshape(2, 3)
  view = np.ascontiguousarray(values.T).T
  assert params_fingerprint({"a": view}) == params_fingerprint({"a": values})


def test_wrong_settings_are_input_errors(model_config, params, tokenizer):
  with pytest.raises(InputError, match="pooling is 'max'"):
    DualEncoderConfig(pooling="max", normalize=True)
  with pytest.raises(InputError, match="query_length is 2"):
    dataclasses.replace(CONFIG, query_length=2)
  with pytest.raises(InputError, match="passage_length is 41, but the model"):
    _encoder(model_config, params, tokenizer, passage_length=41)
  with pytest.raises(InputError, match="the projection's activation is 'rel"):
    ProjectionConfig(size=4, activation="relu")
  with pytest.raises(InputError, match="the projection's size is 0"):
    ProjectionConfig(size=0)
  small = dataclasses.replace(model_config, vocab_size=10)
  with pytest.raises(InputError, match=r"embeddings\.word_embeddings has 10"):
    _encoder(small, params, tokenizer)
  with pytest.raises(InputError, match=r"shared\.weight has 10 rows"):
    _encoder(dataclasses.replace(T5, vocab_size=10), params, tokenizer)
