"""Chunked and packed batches: the same loss and gradient as whole ones."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import multihost_utils
from test_dual_encoder_model import (
  BERT,
  SEPARATE,
  SHARED,
  T5,
  make_batch,
  make_params,
)
from test_dual_encoder_model import make_model as _make_model

from xqg_jax.errors import InputError
from xqg_jax.runtime.sharding import make_mesh, shard_batch
from xqg_jax.training.losses.ranking import RankingObjective
from xqg_jax.training.rows import get_texts, join_parts, pack_batch

pytestmark = pytest.mark.usefixtures("quick_compiler")

ROW_LENGTHS = {"query": 24, "passage": 40}


def make_model(**options):
  config, encoder = options.pop("config", BERT), options.pop("encoder", SHARED)
  return _make_model(config, encoder, **options)


def _loss_and_gradient(model, params, batch):
  loss = jax.jit(jax.value_and_grad(model.loss, has_aux=True))
  (value, metrics), gradient = loss(params, batch, jax.random.key(3))
  return float(value), metrics, gradient


def _assert_equal(found, expected, atol):
  assert found[0] == pytest.approx(expected[0], abs=atol)
  for a, b in zip(
    jax.tree.leaves(found[2]), jax.tree.leaves(expected[2]), strict=True
  ):
    np.testing.assert_allclose(a, b, atol=atol)


# Of 8 queries and 16 passages, or fewer packed rows: all chunks are ragged.
@pytest.mark.slow
@pytest.mark.parametrize(
  ("rows_per_chunk", "options"),
  [(5, {"config": T5}), (3, {"row_lengths": ROW_LENGTHS})],
)
def test_chunks_change_neither_loss_nor_gradient(rows_per_chunk, options):
  model = make_model(dropout_rate=0.3, **options)
  params = jax.tree.map(lambda x: x / 3, make_params(model))
  batch = model.prepare_batch(make_batch(), num_groups=1)
  whole = _loss_and_gradient(model, params, batch)
  chunked = dataclasses.replace(model, rows_per_chunk=rows_per_chunk)
  _assert_equal(_loss_and_gradient(chunked, params, batch), whole, 1e-6)
  # Dropout is on: without it the loss is another one.
  still = dataclasses.replace(model, dropout_rate=0.0)
  loss, _ = jax.jit(still.loss)(params, batch, jax.random.key(3))
  assert abs(loss - whole[0]) > 1e-4


def test_eight_devices_share_packed_chunks():
  model = make_model(
    dropout_rate=0.3, row_lengths=ROW_LENGTHS, rows_per_chunk=8
  )
  params = jax.tree.map(lambda x: x / 3, make_params(model))
  batch = model.prepare_batch(make_batch(), num_groups=4)
  expected, _ = jax.jit(model.loss)(params, batch, jax.random.key(3))
  mesh = make_mesh(2)
  sharded = shard_batch(mesh, batch)
  assert not sharded["passage_tokens"].is_fully_replicated
  found, _ = jax.jit(model.loss)(params, sharded, jax.random.key(3))
  np.testing.assert_allclose(found, expected, atol=1e-6)
  model = dataclasses.replace(model, rows_per_chunk=6)
  with pytest.raises(InputError, match="rows_per_chunk 6 cannot be split over"):
    jax.eval_shape(model.loss, params, sharded, jax.random.key(3))


def test_rows_of_a_batch_have_dropout_of_their_own():
  model = make_model(dropout_rate=0.5)
  batch = make_batch()
  tokens = jnp.asarray(np.tile(batch["query_tokens"][:1], (4, 1)))
  vectors, _ = model._embed(
    jax.tree.map(jnp.asarray, make_params(model)),
    {"query_tokens": tokens},
    "query",
    jax.random.key(0),
  )
  distances = np.abs(vectors[1:] - vectors[0]).max(axis=1)
  assert (distances > 1e-3).all()


def test_packed_batch_has_the_loss_of_the_padded_one():
  objective = RankingObjective(temperature=0.5, symmetric=True)
  model = make_model(encoder=SEPARATE, dropout_rate=0.0, objective=objective)
  params = jax.tree.map(lambda x: x / 3, make_params(model))
  batch = make_batch()
  batch["negative_passage_tokens"][2] = 0  # one query has no hard negative
  padded = _loss_and_gradient(model, params, batch)
  model = dataclasses.replace(model, row_lengths=ROW_LENGTHS)
  packed = model.prepare_batch(batch, num_groups=2)
  assert len(packed["query_tokens"]) < 8
  assert len(packed["passage_tokens"]) < 16
  assert model.count_tokens(packed) == model.count_tokens(batch)
  _assert_equal(_loss_and_gradient(model, params, packed), padded, 1e-6)


def test_packed_rows_hold_each_text_once():
  rng = np.random.default_rng(0)
  batch = make_batch()
  batch["passage_ids"] = rng.integers(0, 9, (8, 2, 2)).astype(np.int32)
  packed = pack_batch(batch, pad_id=0, row_lengths=ROW_LENGTHS, num_groups=3)
  np.testing.assert_array_equal(packed["passage_ids"], batch["passage_ids"])
  for side, texts in get_texts(batch).items():
    tokens, segments, slots = (
      packed[f"{side}_{name}"] for name in ("tokens", "segment_ids", "slots")
    )
    assert len(tokens) % 3 == 0
    width = tokens.shape[1] // 8
    for text, slot in zip(texts, slots, strict=True):
      row, segment = divmod(slot, width)
      found = tokens[row][segments[row] == segment + 1]
      np.testing.assert_array_equal(found, text[text > 0])
    assert (tokens > 0).sum() == (texts > 0).sum()


def test_the_parts_of_two_processes_fit_together(monkeypatch):
  model = make_model(row_lengths=ROW_LENGTHS)
  whole = make_batch()
  for tokens in whole.values():
    tokens[:4] = 7  # at full length: the first part takes more rows
  parts = [
    model.prepare_batch(
      {name: array[rows] for name, array in whole.items()}, num_groups=1
    )
    for rows in (slice(4), slice(4, None))
  ]
  counts = [[len(p["query_tokens"]), len(p["passage_tokens"])] for p in parts]
  assert counts[0][1] > counts[1][1]
  monkeypatch.setattr(
    multihost_utils, "process_allgather", lambda own: np.array(counts)
  )
  joined = [
    join_parts(batch, part=part, num_parts=2)
    for part, batch in enumerate(parts)
  ]
  batch = {
    name: np.concatenate([part[name] for part in joined]) for name in joined[0]
  }
  for side, texts in get_texts(whole).items():
    width = ROW_LENGTHS[side] // 8
    for text, slot in zip(texts, batch[f"{side}_slots"], strict=True):
      row, segment = divmod(slot, width)
      is_inside = batch[f"{side}_segment_ids"][row] == segment + 1
      found = batch[f"{side}_tokens"][row][is_inside]
      np.testing.assert_array_equal(found, text[text > 0])


def test_row_counts_are_few():
  """Ninety batches take few programs, and rows next to no padding."""
  counts, fill = set(), []
  rng = np.random.default_rng(1)
  for _ in range(90):
    lengths = rng.integers(5, 17, (128, 2, 1))
    tokens = np.where(np.arange(16) < lengths, 7, 0).astype(np.int32)
    batch = {
      "query_tokens": tokens[:, 0, :12],
      "passage_tokens": tokens[:, 0],
      "negative_passage_tokens": tokens[:, 1:],
    }
    packed = pack_batch(
      batch, pad_id=0, row_lengths={"query": 64, "passage": 64}, num_groups=4
    )
    counts.add((len(packed["query_tokens"]), len(packed["passage_tokens"])))
    fill.append((packed["passage_tokens"] > 0).mean())
  assert len(counts) <= 4
  assert np.mean(fill) > 0.85


def test_bad_rows_and_scores():
  model = make_model(row_lengths={"query": 24, "passage": 15})
  with pytest.raises(InputError, match="rows of 15 tokens are too short"):
    model.prepare_batch(make_batch(), num_groups=1)
  model = make_model(objective=RankingObjective(distillation="kl"))
  batch = make_batch() | {"teacher_scores": np.full((8, 2), np.nan)}
  with pytest.raises(InputError, match="give each passage a 'teacher_score'"):
    model.prepare_batch(batch, num_groups=1)
