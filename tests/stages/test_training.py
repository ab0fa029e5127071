"""Training: resumed, found finished, refused."""

import dataclasses
import importlib.util
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.tiny_collection import make_tokenizer, write_collection
from tests.helpers.tiny_models import ENCODER, T5
from xqg_jax.checkpoints import (
  list_steps,
  load_dual_encoder,
  load_query_generator,
  step_folder,
)
from xqg_jax.errors import InputError
from xqg_jax.models.bert.encoder import BertConfig
from xqg_jax.runtime.sharding import make_mesh, shard_batch
from xqg_jax.stages import train as training
from xqg_jax.stages.train import train
from xqg_jax.training import run
from xqg_jax.training.dual_encoder_model import DualEncoderModel
from xqg_jax.training.optimizers import make_optimizer, weight_decay_mask
from xqg_jax.training.query_generator_model import QueryGeneratorModel
from xqg_jax.training.state import Trainer

BERT = BertConfig(
  vocab_size=200,
  hidden_size=16,
  num_hidden_layers=1,
  num_attention_heads=2,
  intermediate_size=32,
  max_position_embeddings=32,
)


def _encoder(**kwargs):
  return DualEncoderModel(
    **{
      "config": BERT,
      "encoder": ENCODER,
      "tokenizer": make_tokenizer("bert"),
      "num_negatives": 2,
      **kwargs,
    }
  )


def _generator(**kwargs):
  return QueryGeneratorModel(
    **{"config": T5, "tokenizer": make_tokenizer("t5"), **kwargs}
  )


MODELS = {"generation": _generator, "dual_encoder": _encoder}


def _random_batch(kind):
  rng = np.random.default_rng(0)

  def tokens(*shape):
    ids = rng.integers(4, 200, shape).astype(np.int32)
    kept = rng.integers(2, shape[-1] + 1, (*shape[:-1], 1))
    return np.where(np.arange(shape[-1]) < kept, ids, 0).astype(np.int32)

  if kind == "dual_encoder":
    negatives = tokens(8, 2, 16)
    negatives[3, 1] = 0  # one query has a single hard negative
    return {
      "query_tokens": tokens(8, 12),
      "passage_tokens": tokens(8, 16),
      "negative_passage_tokens": negatives,
    }
  targets = tokens(8, 10)
  return {
    "encoder_input_tokens": tokens(8, 16),
    "decoder_input_tokens": np.roll(targets, 1, 1) * (np.arange(10) > 0),
    "decoder_target_tokens": targets,
    "decoder_loss_weights": (targets > 0).astype(np.int32),
  }


def _make_trainer(kind, mesh, optimizer="adamw", **kwargs):
  model, _ = MODELS[kind](**kwargs).complete(None)
  return Trainer(
    model, make_optimizer(optimizer=optimizer, learning_rate=1e-2), mesh, 0
  )


def _take_steps(trainer, batch, count=3):
  state = trainer.init_state()
  losses = []
  for _ in range(count):
    state, metrics = trainer.step(state, shard_batch(trainer.mesh, batch))
    losses.append(float(metrics["loss"]))
  return state, losses


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_moments_lie_where_their_parameters_lie(optimizer):
  trainer = _make_trainer("generation", make_mesh(2), optimizer)
  state = trainer.init_state()
  kernel = state.params["decoder"]["logits_dense"]["kernel"]
  assert kernel.addressable_shards[0].data.shape == (16, 100)
  if optimizer == "adamw":
    moments = [
      leaf
      for path, leaf in jax.tree.leaves_with_path(state.opt_state)
      if "logits_dense" in jax.tree_util.keystr(path)
    ]
    assert len(moments) == 2
    assert all(m.sharding == kernel.sharding for m in moments)


@pytest.mark.parametrize("kind", MODELS)
def test_loss_falls_and_dropout_depends_on_the_step(kind):
  mesh = make_mesh(devices=jax.devices()[:1])
  batch = {k: jnp.asarray(v, jnp.int32) for k, v in _random_batch(kind).items()}
  _, losses = _take_steps(_make_trainer(kind, mesh), batch, 12)
  assert losses[-1] < 0.9 * losses[0]
  model = _make_trainer(kind, mesh).model
  params = model.init(jax.random.key(0))
  loss = jax.jit(model.loss)
  first, second = (loss(params, batch, jax.random.key(i))[0] for i in (0, 1))
  assert float(first) != float(second)


def test_dual_encoder_loss_ignores_absent_negatives():
  batch = {k: jnp.asarray(v) for k, v in _random_batch("dual_encoder").items()}
  model, _ = _encoder(dropout_rate=0.0).complete(None)
  params = model.init(jax.random.key(0))
  key = jax.random.key(0)
  loss = jax.jit(model.loss)
  with_row = loss(params, batch, key)[0]
  absent = jnp.zeros((8, 1, 16), jnp.int32)
  negatives = jnp.concatenate([batch["negative_passage_tokens"], absent], 1)
  padded = loss(params, batch | {"negative_passage_tokens": negatives}, key)[0]
  np.testing.assert_allclose(padded, with_row, atol=1e-6)


# ----------------------------------------------------------------- whole runs


@pytest.fixture
def one_device(monkeypatch):
  """Sharded steps are compared above; one device compiles faster."""
  mesh = make_mesh(devices=jax.devices()[:1])
  monkeypatch.setattr(training, "make_mesh", lambda num_partitions: mesh)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  return str(write_collection(tmp_path_factory.mktemp("pairs")))


def _run(model_dir, data_dir, kind="dual_encoder", **kwargs):
  lengths = {
    "generation": {"inputs": 24, "targets": 12},
    "dual_encoder": None,
  }
  return train(
    **{
      "model_dir": str(model_dir),
      "model": MODELS[kind](),
      "mixture_or_task_name": f"small_{kind}",
      "data_dir": data_dir,
      "task_feature_lengths": lengths[kind],
      "train_steps": 7,
      "batch_size": 8,
      "learning_rate": 1e-2,
      "checkpoint_period": 2,
      "log_period": 3,
      **kwargs,
    }
  )


def _read_checkpoint(model_dir, step):
  folder = step_folder(model_dir, step)
  return {
    path.relative_to(folder): path.read_bytes()
    for path in sorted(folder.rglob("*"))
    if path.is_file()
  }


def _params(model_dir, kind="dual_encoder"):
  load = {
    "dual_encoder": load_dual_encoder,
    "generation": load_query_generator,
  }
  return load[kind](model_dir).params


def _assert_same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


class Interruption(Exception):
  """Stands for a kill."""


def _interrupt_at(monkeypatch, step):
  make = run._make_batches

  def interrupted(*args, **kwargs):
    batches = make(*args, **kwargs)
    for number in range(kwargs["start_step"], 10**9):
      if number == step:
        raise Interruption
      yield next(batches)

  monkeypatch.setattr(run, "_make_batches", interrupted)


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize("kind", MODELS)
def test_resumed_run_equals_unbroken_run(kind, tmp_path, data_dir, monkeypatch):
  whole = _run(tmp_path / "whole", data_dir, kind)
  with monkeypatch.context() as patch:
    _interrupt_at(patch, 5)
    with pytest.raises(Interruption):
      _run(tmp_path / "broken", data_dir, kind)
  assert list_steps(tmp_path / "broken") == [2, 4]
  broken = _run(tmp_path / "broken", data_dir, kind)
  assert list_steps(broken) == list_steps(whole) == [6, 7]
  _assert_same(_params(whole, kind), _params(broken, kind))
  rows = [
    [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    for folder in (whole, broken)
  ]
  assert [row["step"] for row in rows[1]] == [3, 6, 7]
  names = {"loss", "accuracy", "gradient_norm", "learning_rate"}
  for row, other in zip(*rows, strict=True):
    assert names <= row.keys()
    assert [row[name] for name in names] == [other[name] for name in names]
  assert (whole / "manifest.json").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
def test_finished_run_is_found_and_another_refused(
  tmp_path, data_dir, monkeypatch
):
  first = _run(tmp_path, data_dir)
  before = _read_checkpoint(first, 7)
  with monkeypatch.context() as patch:
    patch.setattr(run, "TrainingLoop", None)  # would not be callable
    assert _run(tmp_path, data_dir, log_period=1) == first
  assert _read_checkpoint(first, 7) == before
  with pytest.raises(InputError, match="another batch_size"):
    _run(tmp_path, data_dir, batch_size=16)
  with pytest.raises(InputError, match="another model"):
    _run(tmp_path, data_dir, model=_encoder(num_negatives=1))
  # Fine-tuning takes shape, tokenizer and pooling from the checkpoint.
  tuned = _run(
    tmp_path.parent / "tuned",
    data_dir,
    model=DualEncoderModel(num_negatives=1),
    initial_checkpoint_path=str(first),
    train_steps=1,
    learning_rate=0.0,
  )
  _assert_same(_params(tuned), _params(first))
  other = dataclasses.replace(BERT, hidden_size=32)
  with pytest.raises(InputError, match=r"differs .* in hidden_size"):
    _encoder(config=other).complete(str(first))


def test_bad_arguments(tmp_path, data_dir):
  for match, kwargs in (
    ("BATCH_SIZE 12", {"batch_size": 12}),
    ("num_partitions=3", {"num_partitions": 3}),
    ("unknown optimizer 'sgd'", {"optimizer": "sgd"}),
    ("unknown schedule 'sqrt'", {"schedule": "sqrt"}),
    ("7 warm-up steps", {"warmup_steps": 7}),
    ("LOG_PERIOD is 0", {"log_period": 0}),
    ("only one of DEV_", {"dev_passages": "p.tsv"}),
    ("TASK_FEATURE_LENGTHS", {"task_feature_lengths": {"inputs": 3}}),
    ("is not a task of this model", {"mixture_or_task_name": "small"}),
    ("no tokenizer", {"model": _encoder(tokenizer=None)}),
    ("no config", {"model": _encoder(config=None)}),
    ("no such file", {"data_dir": str(tmp_path)}),
  ):
    with pytest.raises(InputError, match=match):
      _run(tmp_path / "out", **{"data_dir": data_dir, **kwargs})
  assert not (tmp_path / "out").exists()


def test_without_seqio_the_mend_is_named(tmp_path, data_dir, monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(InputError, match=r"xqg_jax\[tasks\]"):
    _run(tmp_path / "out", data_dir)


def test_importing_the_stage_imports_no_tensorflow():
  code = (
    "import sys, xqg_jax.stages.train\n"
    "assert not {'tensorflow', 'seqio', 'gin', 't5x'} & set(sys.modules)"
  )
  subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
  ("optimizer", "expected"),
  # The first step is the sign of the gradient; the parameter's size is 5.
  [("adafactor", [-0.5, 0.5]), ("adafactor_absolute", [-0.1, 0.1])],
)
def test_adafactor_by_hand(optimizer, expected):
  params = {"kernel": jnp.array([7.0, 1.0])}
  update = make_optimizer(optimizer=optimizer, learning_rate=0.1)
  gradient = {"kernel": jnp.array([3.0, -0.2])}
  updates, _ = update.update(gradient, update.init(params), params)
  np.testing.assert_allclose(updates["kernel"], expected, rtol=1e-5)


def test_weight_decay_leaves_biases_and_norms():
  params = jax.eval_shape(_encoder().complete(None)[0].init, jax.random.key(0))
  mask = weight_decay_mask(params)
  flat = {
    jax.tree_util.keystr(path, simple=True, separator="/"): decays
    for path, decays in jax.tree.leaves_with_path(mask)
  }
  kept = {name for name, decays in flat.items() if not decays}
  assert kept == {n for n in flat if n.endswith(("/bias", "/scale"))}
  assert 0 < len(kept) < len(flat)
