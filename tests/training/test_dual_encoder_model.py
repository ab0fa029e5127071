"""Training every kind of dual encoder, from random and from checkpoints."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.helpers import tiny_dual_encoder as tiny
from tests.helpers.tiny_collection import make_tokenizer
from tests.helpers.tiny_models import ENCODER as SHARED
from tests.helpers.tiny_models import T5
from xqg_jax.checkpoints import load_dual_encoder, save_params
from xqg_jax.errors import InputError
from xqg_jax.models.bert.encoder import BertConfig
from xqg_jax.models.dual_encoder.config import (
  ProjectionConfig,
)
from xqg_jax.models.t5.network import T5Config
from xqg_jax.runtime.sharding import make_mesh, shard_batch
from xqg_jax.training.dual_encoder_model import DualEncoderModel
from xqg_jax.training.losses.ranking import RankingObjective
from xqg_jax.training.state import Trainer

BERT = BertConfig(
  vocab_size=200,
  hidden_size=16,
  num_hidden_layers=1,
  num_attention_heads=2,
  intermediate_size=32,
  max_position_embeddings=32,
)
SEPARATE = dataclasses.replace(
  SHARED, share_encoders=False, projection=ProjectionConfig(size=12)
)


def make_batch(seed=0):
  rng = np.random.default_rng(seed)

  def tokens(*shape):
    ids = rng.integers(4, 200, shape)
    kept = rng.integers(2, shape[-1] + 1, (*shape[:-1], 1))
    return np.where(np.arange(shape[-1]) < kept, ids, 0).astype(np.int32)

  return {
    "query_tokens": tokens(8, 12),
    "passage_tokens": tokens(8, 16),
    "negative_passage_tokens": tokens(8, 1, 16),
  }


def make_model(config, encoder, **options):
  style = "t5" if isinstance(config, T5Config) else "bert"
  options = {
    "config": config,
    "encoder": encoder,
    "tokenizer": make_tokenizer(style),
    "num_negatives": 1,
    **options,
  }
  model, params = DualEncoderModel(**options).complete(None)
  assert params is None
  return model


def make_params(model, seed=0):
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  return jax.tree.map(
    lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), shapes
  )


@pytest.mark.slow
def test_two_sides_of_t5_learn_on_eight_devices():
  model = make_model(T5, SEPARATE, dropout_rate=0.0)
  mesh = make_mesh(2)
  trainer = Trainer(model, optax.sgd(0.1), mesh, 0)
  state = trainer.init_state()
  start = jax.device_get(state.params)
  query, passage = (
    side["encoder"]["token_embedder"]["embedding"] for side in start.values()
  )
  assert np.abs(query - passage).max() > 0.1
  batch = shard_batch(mesh, make_batch())
  expected, _ = jax.jit(model.loss)(start, make_batch(), jax.random.key(0))
  losses = []
  for _ in range(3):
    state, metrics = trainer.step(state, batch)
    losses.append(float(metrics["loss"]))
  np.testing.assert_allclose(losses[0], expected, rtol=1e-5)
  assert losses[-1] < losses[0]
  # Every parameter of both sides has moved.
  moved = jax.tree.map(
    lambda old, new: np.abs(old - new).max() > 0,
    start,
    jax.device_get(state.params),
  )
  assert all(jax.tree.leaves(moved))


def test_loss_of_separate_sides_by_hand():
  model = make_model(
    BERT,
    SEPARATE,
    dropout_rate=0.0,
    objective=RankingObjective(temperature=2.0),
  )
  params = make_params(model)
  batch = make_batch()
  (loss, _) = jax.jit(model.loss)(params, batch, jax.random.key(0))
  vectors = {}
  for side, tokens in (
    ("query", batch["query_tokens"]),
    (
      "passage",
      np.concatenate(
        [batch["passage_tokens"][:, None], batch["negative_passage_tokens"]], 1
      ).reshape(16, 16),
    ),
  ):
    alone = dataclasses.replace(
      model, encoder=dataclasses.replace(SEPARATE, share_encoders=True)
    )
    mask = (tokens > 0).astype(np.int32)
    positions = np.arange(tokens.shape[1], dtype=np.int32) * mask
    rows = (jnp.asarray(x) for x in (tokens, mask, positions))
    side_params = {"params": params[f"{side}_encoder"]}
    vectors[side] = jax.jit(alone.network.apply)(side_params, *rows)[:, 0]
  logits = np.asarray(vectors["query"] @ vectors["passage"].T) / 2
  positives = logits[np.arange(8), 2 * np.arange(8)]
  expected = np.mean(np.log(np.exp(logits).sum(1)) - positives)
  np.testing.assert_allclose(loss, expected, atol=1e-5)


def test_dropout_of_t5_depends_on_the_key():
  model = make_model(T5, SHARED, dropout_rate=0.5)
  assert model.config.dropout_rate == 0.5
  params = make_params(model)
  loss = jax.jit(model.loss)
  first, again, second = (
    float(loss(params, make_batch(), jax.random.key(seed))[0])
    for seed in (0, 0, 1)
  )
  assert first == again != second


# ------------------------------------------------------------ from checkpoints


@pytest.fixture
def checkpoint(tmp_path):
  return tiny.write_checkpoint(tmp_path / "model")


def complete(checkpoint, **options):
  return DualEncoderModel(**options).complete(checkpoint)


def test_the_checkpoint_fills_in_what_is_left_out(checkpoint):
  model, params = complete(checkpoint, dropout_rate=0.3)
  assert model.encoder == tiny.CONFIG
  assert model.config.hidden_dropout_prob == 0.3
  assert params.keys() == {"encoder"}


@pytest.mark.slow
def test_a_shared_checkpoint_becomes_two_sides_with_a_projection(
  checkpoint, tmp_path
):
  wanted = dataclasses.replace(
    tiny.CONFIG, share_encoders=False, projection=ProjectionConfig(size=6)
  )
  model, params = complete(checkpoint, encoder=wanted, num_negatives=1)
  assert model.encoder == wanted
  source = load_dual_encoder(checkpoint).params["encoder"]
  query, passage = params["query_encoder"], params["passage_encoder"]
  for side in (query, passage):
    jax.tree.map(np.testing.assert_array_equal, side["encoder"], source)
    assert side["projection"]["kernel"].shape == (16, 6)
  jax.tree.map(np.testing.assert_array_equal, query, passage)
  # The step takes over the memory of its parameters: no array appears twice.
  small = dataclasses.replace(model, dropout_rate=0.0)
  batch = {k: v % 100 for k, v in make_batch().items()}
  mesh = make_mesh(devices=jax.devices()[:1])
  trainer = Trainer(small, optax.sgd(0.1), mesh, 0)
  state, _ = trainer.step(
    trainer.init_state(params), shard_batch(trainer.mesh, batch)
  )
  trained = jax.device_get(state.params)
  model.save_files(tmp_path / "trained")
  save_params(tmp_path / "trained", 1, trained)
  found = load_dual_encoder(tmp_path / "trained")
  assert found.config == wanted
  jax.tree.map(np.testing.assert_array_equal, found.params, trained)
  kernel = "projection", "kernel"
  query, passage = (
    side[kernel[0]][kernel[1]] for side in jax.device_get(trained).values()
  )
  assert not np.array_equal(query, passage)
  # Going on from there keeps both sides, whatever the config leaves out.
  model, params = complete(tmp_path / "trained", encoder=tiny.CONFIG)
  assert model.encoder == wanted
  jax.tree.map(np.testing.assert_array_equal, params, trained)


def test_another_projection_than_the_checkpoints_is_refused(tmp_path):
  config = dataclasses.replace(tiny.CONFIG, projection=ProjectionConfig(size=6))
  checkpoint = tiny.write_checkpoint(tmp_path / "model", config=config)
  other = dataclasses.replace(config, projection=ProjectionConfig(size=7))
  with pytest.raises(InputError, match=r"size=7.*initial checkpoint's is"):
    complete(checkpoint, encoder=other)


def test_a_run_needs_a_config_and_a_pooling(checkpoint):
  with pytest.raises(InputError, match="no config for the model"):
    complete(None, config=BERT, tokenizer=make_tokenizer("bert"))
  with pytest.raises(InputError, match="no config for the model"):
    complete(None, encoder=SHARED, tokenizer=make_tokenizer("bert"))
  with pytest.raises(InputError, match=r"differs from .* in vocab_size"):
    complete(checkpoint, config=T5)


def test_float16_of_t5_is_refused_before_the_run():
  with pytest.raises(InputError, match="overflow float16"):
    make_model(T5, SHARED, dtype="float16")
