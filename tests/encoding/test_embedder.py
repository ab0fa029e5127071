"""Sums on the device against texts encoded one by one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import tiny_dual_encoder as tiny
from xqg_jax.encoding import batches as batching
from xqg_jax.encoding import embedder
from xqg_jax.models.bert.encoder import BertEncoder, join_projections

TEXTS = tiny.make_texts(50, longest=20)


def sum_texts(
  targets, num_targets, *, devices=None, rows_per_batch=None, params=None
):
  encoder = tiny.make_encoder()
  if params is not None:
    encoder = dataclasses.replace(encoder, params=params)
  device_side = embedder.Embedder(encoder, devices)
  batches = batching.make_batches(
    encoder.tokenizer.encode_batch(TEXTS, max_length=64),
    targets,
    num_targets=num_targets,
    rows_per_batch=rows_per_batch or {32: 8, 64: 8},
    pad_id=encoder.tokenizer.pad_id,
  )
  seen = []
  sums = device_side.sum_texts(
    batches, num_targets=num_targets, on_batch=lambda: seen.append(1)
  )
  assert len(seen) == len(batches)
  return np.asarray(sums)


@pytest.fixture(scope="module")
def vectors():
  return tiny.embed_one_by_one(tiny.make_encoder(), TEXTS, 64)


def test_every_text_its_own_target(vectors):
  got = sum_texts(np.arange(50), 50)
  np.testing.assert_allclose(got, vectors, atol=1e-5)


def test_sums_by_target(vectors):
  rng = np.random.default_rng(0)
  targets = rng.integers(0, 7, size=50)
  expected = np.zeros((9, vectors.shape[1]))
  np.add.at(expected, targets, vectors)
  got = sum_texts(targets, 9)
  np.testing.assert_allclose(got, expected, atol=1e-5)
  assert not got[7:].any()


def test_sums_by_mark(vectors):
  encoder = tiny.make_encoder()
  marks = np.arange(50) % 4  # 3 is past the end: no mark
  batches = batching.make_batches(
    encoder.tokenizer.encode_batch(TEXTS, max_length=64),
    np.arange(50),
    num_targets=50,
    rows_per_batch={32: 16, 64: 8},
    pad_id=0,
    marks=marks,
  )
  device_side = embedder.Embedder(encoder)
  sums, mark_sums = device_side.sum_marked_texts(
    batches, num_targets=50, num_marks=3
  )
  np.testing.assert_allclose(sums, vectors, atol=1e-5)
  expected = [vectors[i::4].sum(axis=0) for i in range(3)]
  np.testing.assert_allclose(mark_sums, expected, atol=1e-5)


@pytest.mark.parametrize(
  "rows_per_batch", [{64: 8}, {64: 16}, {32: 16, 64: 8}, {40: 8, 48: 8, 64: 8}]
)
def test_shapes_of_batches_do_not_matter(vectors, rows_per_batch):
  got = sum_texts(np.arange(50) % 5, 5, rows_per_batch=rows_per_batch)
  expected = [vectors[i::5].sum(axis=0) for i in range(5)]
  np.testing.assert_allclose(got, expected, atol=1e-5)


def test_number_of_devices_does_not_matter():
  targets = np.arange(50) % 5
  eight = sum_texts(targets, 5, devices=jax.devices())
  one = sum_texts(targets, 5, devices=jax.devices()[:1])
  np.testing.assert_allclose(eight, one, atol=1e-6)


def test_same_bits_every_time():
  targets = np.arange(50) % 5
  first, second = (sum_texts(targets, 5) for _ in range(2))
  assert first.tobytes() == second.tobytes()


def test_a_nan_stays_within_its_row():
  encoder = tiny.make_encoder()
  # "%" is the only text with the unknown token, whose embedding is spoilt.
  params = jax.tree.map(np.array, encoder.params)
  params["encoder"]["embeddings"]["word"][1] = np.nan
  spoilt = dataclasses.replace(encoder, params=params)
  texts = ["red river", "%", "blue lake", "old town"]
  batches = batching.make_batches(
    encoder.tokenizer.encode_batch(texts, max_length=64),
    np.array([0, 1, 0, 2]),
    num_targets=3,
    rows_per_batch={15: 8},  # room for one text a row
    pad_id=0,
  )
  sums = embedder.Embedder(spoilt).sum_texts(batches, num_targets=3)
  is_finite = np.isfinite(np.asarray(sums))
  assert is_finite.all(axis=1).tolist() == [True, False, True]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_product_for_queries_keys_and_values_changes_nothing(dtype):
  encoder = tiny.make_encoder()
  module = BertEncoder(tiny.MODEL, jnp.dtype(dtype))
  params = encoder.params["encoder"]
  rng = np.random.default_rng(0)
  segment_ids = np.repeat([[1, 2, 0]], 8, axis=1).repeat(2, axis=0)
  rows = [
    jnp.asarray(x, jnp.int32)
    for x in (
      rng.integers(5, 100, (2, 24)),
      segment_ids,
      np.tile(np.arange(8), (2, 3)),
    )
  ]
  expected = module.apply({"params": params}, *rows)
  found = module.clone(join_projections=True).apply(
    {"params": join_projections(params)}, *rows
  )
  tolerance = 1e-5 if dtype == "float32" else 3e-2
  np.testing.assert_allclose(
    found.astype(np.float32), expected.astype(np.float32), atol=tolerance
  )


def test_compiles_once_for_new_parameters_of_one_model():
  sum_texts(np.arange(50), 64)
  before = embedder.add_batch._cache_size()
  params = jax.tree.map(lambda x: x * 2, tiny.make_encoder().params)
  sum_texts(np.arange(50), 64, params=params)
  assert embedder.add_batch._cache_size() == before


def test_batch_targets_are_unique():
  encoder = tiny.make_encoder()
  (batch, *_) = batching.make_batches(
    encoder.tokenizer.encode_batch(TEXTS, max_length=64),
    np.arange(50) % 3,
    num_targets=10,
    rows_per_batch={64: 8},
    pad_id=0,
  )
  assert len(set(batch.targets.tolist())) == batch.targets.size
  assert batch.targets[:3].tolist() == [0, 1, 2]
  assert (batch.targets[3:] >= 10).all()


@pytest.mark.parametrize(
  ("max_length", "options", "expected"),
  [
    (64, {"tokens_per_batch": 1024}, {96: 8}),
    (128, {"tokens_per_batch": 2048}, {96: 16, 112: 16, 128: 16}),
    (200, {"tokens_per_batch": 1024}, {96: 8, 112: 8, 128: 8, 192: 8, 256: 8}),
    (600, {"tokens_per_batch": 1, "row_lengths": (64,)}, {64: 8, 600: 8}),
    (100, {"tokens_per_batch": 4096, "max_tokens": 10}, {96: 8, 112: 8}),
  ],
)
def test_rows_per_batch_divide_among_eight_devices(
  max_length, options, expected
):
  mesh = embedder.sharding.make_mesh()
  got = batching.choose_rows_per_batch(
    max_length=max_length, mesh=mesh, **options
  )
  assert got == expected


def test_a_single_question_is_a_single_row():
  mesh = embedder.sharding.make_mesh(devices=jax.devices()[:1])
  assert batching.choose_rows_per_batch(
    max_length=32, mesh=mesh, max_tokens=32
  ) == {96: 1}


def test_batches_follow_the_cores_that_taskset_gives(monkeypatch):
  mesh = embedder.sharding.make_mesh(devices=jax.devices()[:1])
  for cores in (1, 6):
    monkeypatch.setattr(
      batching.os,
      "sched_getaffinity",
      lambda _, cores=cores: set(range(cores)),
      raising=False,
    )
    rows = batching.choose_rows_per_batch(max_length=128, mesh=mesh)
    assert rows[128] == cores * 512 // 128
