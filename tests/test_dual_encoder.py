"""Pooling, normalisation and fingerprints of dual encoders."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xqg_jax.errors import InputError
from xqg_jax.models.bert import BertConfig, BertEncoder
from xqg_jax.models.dual_encoder import (
  DualEncoder,
  DualEncoderConfig,
  make_dual_encoder,
  normalize_embeddings,
  pool_segments,
)
from xqg_jax.models.parameters import init_params, params_fingerprint
from xqg_jax.records import Passage
from xqg_jax.tokenizers import Tokenizer, train_tokenizer

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
  return init_params(BertEncoder(model_config), jax.random.key(0))


CONFIG = DualEncoderConfig(
  pooling="mean", normalize=True, query_length=8, passage_length=16
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


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("normalize", [True, False])
def test_embeddings_do_not_depend_on_packing(
  model_config, params, tokenizer, pooling, normalize
):
  encoder = _encoder(
    model_config, params, tokenizer, pooling=pooling, normalize=normalize
  )
  embed = jax.jit(encoder.embed, static_argnames="num_segments")
  packed = (
    jnp.array([[2, 9, 3, 2, 8, 7, 3, 0]]),
    jnp.array([[1, 1, 1, 2, 2, 2, 2, 0]]),
    jnp.array([[0, 1, 2, 0, 1, 2, 3, 0]]),
  )
  found = embed(params, *packed, num_segments=3)
  assert found.shape == (1, 3, encoder.dim)
  assert found.dtype == jnp.float32
  for segment, (start, stop) in enumerate([(0, 3), (3, 7)]):
    tokens = packed[0][:, start:stop]
    alone = embed(
      params,
      tokens,
      jnp.ones_like(tokens),
      jnp.arange(tokens.shape[1])[None],
      num_segments=1,
    )
    np.testing.assert_allclose(found[0, segment], alone[0, 0], atol=1e-6)
  np.testing.assert_array_equal(found[0, 2], np.zeros(encoder.dim))
  lengths = np.linalg.norm(found[0, :2], axis=-1)
  assert np.allclose(lengths, 1, atol=1e-6) == normalize


def test_a_dropout_key_changes_embeddings(model_config, params, tokenizer):
  encoder = _encoder(model_config, params, tokenizer)
  row = (jnp.array([[2, 9, 3]]), jnp.ones((1, 3), int), jnp.arange(3)[None])
  embed = jax.jit(encoder.embed, static_argnames="num_segments")
  plain = embed(params, *row, num_segments=1)
  dropped = embed(params, *row, num_segments=1, dropout_rng=jax.random.key(1))
  assert not np.allclose(plain, dropped, atol=1e-3)


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
  bias = params["layers_0"]["wi"]["bias"]
  layer = params["layers_0"] | {
    "wi": params["layers_0"]["wi"] | {"bias": bias.at[3].add(1e-6)}
  }
  others = {
    fingerprint(pooling="cls"),
    fingerprint(normalize=False),
    fingerprint(query_prefix="q "),
    fingerprint(passage_prefix="q "),
    fingerprint(weights=params | {"layers_0": layer}),
    fingerprint(dataclasses.replace(model_config, num_attention_heads=4)),
    fingerprint(
      words=train_tokenizer(["another"], vocab_size=60, style="bert")
    ),
  }
  assert len(others | {same}) == 8


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
  small = dataclasses.replace(model_config, vocab_size=10)
  with pytest.raises(InputError, match=r"embeddings\.word_embeddings has 10"):
    _encoder(small, params, tokenizer)
