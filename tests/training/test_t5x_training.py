"""Training goes on over the border to T5X, and T5X's networks are ours."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from tests.helpers import tiny_t5, tiny_t5x
from tests.helpers.tiny_checkpoints import save_state
from xqg_jax.checkpoints import load_query_generator, save_model_files
from xqg_jax.checkpoints.t5x.adafactor import restore_opt_state
from xqg_jax.checkpoints.t5x.layouts import open_t5x_step
from xqg_jax.errors import InputError
from xqg_jax.generation.decoding import GREEDY, decode, make_row_keys
from xqg_jax.io.locations import Location
from xqg_jax.models.t5.network import T5Config
from xqg_jax.runtime.sharding import make_mesh, shard_batch
from xqg_jax.stages.export import export
from xqg_jax.training.optimizers import make_optimizer, make_schedule
from xqg_jax.training.query_generator_model import QueryGeneratorModel
from xqg_jax.training.state import (
  Trainer,
  TrainState,
  adopt_t5x_state,
  open_t5x_start,
)

NEEDS_T5X = functools.partial(pytest.importorskip, reason=tiny_t5x.GET_T5X)


# ---------------------------------------------------- training that T5X goes on
# Axes of 128 and more, so that Adafactor keeps rows and columns of them; heads
# as many as devices, for T5X splits all over the devices of a CPU.

WIDE = T5Config(
  vocab_size=160,
  emb_dim=136,
  num_heads=8,
  head_dim=2,
  mlp_dim=144,
  num_encoder_layers=1,
  num_decoder_layers=1,
)
RATE = 1e-3


def _make_batches(number):
  rng = np.random.default_rng(0)
  for _ in range(number):
    targets = rng.integers(2, 160, (8, 6)).astype(np.int32)
    targets[0, 4:] = 0
    inputs = rng.integers(2, 160, (8, 12)).astype(np.int32)
    inputs[1, 7:] = 0
    yield {
      "encoder_input_tokens": inputs,
      "decoder_input_tokens": tiny_t5.shift_right(targets),
      "decoder_target_tokens": targets,
      "decoder_loss_weights": (targets != 0).astype(np.int32),
    }


@functools.cache
def _make_trainer(num_partitions, *, name="adafactor"):
  model, _ = QueryGeneratorModel(
    config=WIDE, tokenizer=tiny_t5x.TOKENIZER, dropout_rate=0.0
  ).complete(None)
  rate = make_schedule(schedule="constant", learning_rate=RATE, train_steps=99)
  optimizer = make_optimizer(
    optimizer=name, learning_rate=rate, gradient_clip=None
  )
  mesh = make_mesh(num_partitions, jax.devices()[:num_partitions])
  return Trainer(model, optimizer, mesh, seed=0)


def _train(trainer, state, batches):
  for batch in batches:
    state, metrics = trainer.step(state, shard_batch(trainer.mesh, batch))
  return state, float(metrics["loss"])


def _assert_near(found, expected, atol):
  found, expected = (
    flatten_dict(jax.device_get(dict(tree)), sep="/")
    for tree in (found, expected)
  )
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(found[name], value, atol=atol, err_msg=name)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """(MODEL_DIR, its T5X export, state) after three steps of our training."""
  trainer = _make_trainer(1)
  params = unflatten_dict(tiny_t5x.random_params(WIDE), sep="/")
  params = jax.tree.map(lambda x: 0.05 * x, params)
  state, _ = _train(trainer, trainer.init_state(params), _make_batches(3))
  folder = tmp_path_factory.mktemp("trained")
  trainer.model.save_files(folder / "ours")
  save_state(folder / "ours", state)
  export(
    checkpoint_path=folder / "ours", output_dir=folder / "t5x", format="t5x"
  )
  return folder / "ours", folder / "t5x", jax.device_get(state)


def _put(state, trainer):
  """A copy of a host's state, which the step may take over."""
  copy = jax.tree.map(np.array, state)
  return jax.device_put(copy, trainer.shardings)


def _adopt(path, trainer):
  checkpoint, step = open_t5x_start(path, train_steps=99)
  params = load_query_generator(path).params
  return adopt_t5x_state(checkpoint, step, trainer, params)


@pytest.mark.parametrize(
  "num_partitions", [1, pytest.param(2, marks=pytest.mark.slow)]
)
def test_a_run_goes_on_after_the_way_through_t5xs_layout(
  trained, num_partitions
):
  *_, last = _make_batches(4)
  trainer = _make_trainer(num_partitions)
  state, expected = _adopt(trained[1], trainer), _put(trained[2], trainer)
  for found, wanted, sharding in zip(
    *map(jax.tree.leaves, (state, expected, trainer.shardings)), strict=True
  ):
    assert found.sharding == sharding
    np.testing.assert_array_equal(found, wanted)
  state, loss = _train(trainer, state, [last])
  expected, expected_loss = _train(trainer, expected, [last])
  assert int(state.step) == 4
  assert loss == expected_loss
  _assert_near(state.params, expected.params, 0)


def test_only_adafactor_goes_on(trained, tmp_path):
  with pytest.raises(InputError, match="only Adafactor can go on"):
    _adopt(trained[1], _make_trainer(1, name="adamw"))
  with pytest.raises(InputError, match="needs a T5X checkpoint"):
    open_t5x_start(trained[0], train_steps=99)
  with pytest.raises(InputError, match="OPTIMIZER is adamw"):
    open_t5x_start(trained[1], train_steps=99, optimizer="adamw")
  with pytest.raises(InputError, match=r"has 3 steps .* TRAIN_STEPS is 3"):
    open_t5x_start(trained[1], train_steps=3)
  tiny_t5x.write_classic(
    tmp_path / "checkpoint_7", tiny_t5x.random_params(WIDE)
  )
  tiny_t5x.TOKENIZER.save(tmp_path)
  with pytest.raises(InputError, match="only Adafactor can go on"):
    _adopt(tmp_path, _make_trainer(1))


def test_momentum_is_refused():
  tensors = {
    f"a/scale/{kind}": np.ones(4, np.float32) for kind in ("v", "m")
  } | {f"a/scale/{kind}": np.ones(1, np.float32) for kind in ("v_row", "v_col")}
  shapes = optax.adafactor(RATE).init({"a": {"scale": np.ones(4, np.float32)}})
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  restore = functools.partial(
    restore_opt_state,
    shapes=shapes,
    shardings=jax.tree.map(lambda _: device, shapes),
    step=3,
    where="here",
  )
  with pytest.raises(InputError, match=r"here: only Adafactor .* momentum"):
    restore(tensors)
  state = restore(tensors | {"a/scale/m": np.ones(1, np.float32)})
  (factored,) = (part for part in state if hasattr(part, "v_row"))
  np.testing.assert_array_equal(factored.v["a"]["scale"], np.ones(4))
  assert int(factored.count) == 3


def test_another_optimizers_state_is_left_behind(tmp_path):
  params = unflatten_dict(tiny_t5x.PARAMS, sep="/")
  save_model_files(
    tmp_path / "ours",
    model_config_hf=tiny_t5x.CONFIG.to_hf(),
    tokenizer=tiny_t5x.TOKENIZER,
  )
  moments = optax.adamw(RATE).init(params)
  save_state(tmp_path / "ours", TrainState(np.int32(5), params, moments))
  export(
    checkpoint_path=tmp_path / "ours", output_dir=tmp_path / "t5x", format="t5x"
  )
  folder = Location.of(tmp_path / "t5x" / "checkpoint_5")
  states = open_t5x_step(folder).open("state/param_states/")
  assert len(states) == 4 * len(tiny_t5x.PARAMS)
  assert not any(tensor.read().any() for tensor in states.values())


# ----------------------------------------------------------------- T5X itself


@functools.cache
def _make_t5x_model(config):
  adafactor = NEEDS_T5X("t5x.adafactor")
  models = NEEDS_T5X("t5x.models")
  network = NEEDS_T5X("t5x.examples.t5.network")
  seqio = pytest.importorskip("seqio")
  names = (
    "vocab_size emb_dim num_heads head_dim mlp_dim num_encoder_layers "
    "num_decoder_layers logits_via_embedding"
  ).split()
  shape = {name: getattr(config, name) for name in names}
  module = network.Transformer(
    network.T5Config(
      **shape, mlp_activations=("gelu", "linear"), dropout_rate=0.0
    )
  )
  words = seqio.PassThroughVocabulary(config.vocab_size, eos_id=1)
  return models.EncoderDecoderModel(
    module=module,
    input_vocabulary=words,
    output_vocabulary=words,
    optimizer_def=adafactor.Adafactor(
      decay_rate=0.8,
      step_offset=0,
      logical_factor_rules=adafactor.standard_logical_factor_rules(),
    ),
    z_loss=0.0,
    loss_normalizing_factor="NUM_REAL_TARGET_TOKENS",
  )


@functools.cache
def _make_t5x_state(config):
  """(initializer, partitioner) of T5X's train state."""
  partitioning, utils = NEEDS_T5X("t5x.partitioning"), NEEDS_T5X("t5x.utils")
  model = _make_t5x_model(config)
  partitioner = partitioning.PjitPartitioner(num_partitions=1)
  batch = next(_make_batches(1))
  initializer = utils.TrainStateInitializer(
    optimizer_def=model.optimizer_def,
    init_fn=model.get_initial_variables,
    input_shapes={name: rows.shape for name, rows in batch.items()},
    partitioner=partitioner,
  )
  return initializer, partitioner


def _make_t5x_manager(folder, config):
  """What `t5x.train` saves and restores by."""
  checkpoints = NEEDS_T5X("t5x.checkpoints")
  initializer, partitioner = _make_t5x_state(config)
  return checkpoints.OrbaxCheckpointManagerInterface(
    str(folder),
    initializer.global_train_state_shape,
    partitioner,
    save_dtype=jnp.float32,
    restore_dtype=jnp.float32,
  )


@functools.cache
def _make_t5x_step():
  model = _make_t5x_model(WIDE)

  @jax.jit
  def step(state, batch):
    loss = jax.value_and_grad(model.loss_fn, has_aux=True)
    (value, _), gradient = loss(state.params, batch, None)
    return state.apply_gradient(gradient, learning_rate=RATE), value

  return step


@pytest.mark.slow
def test_t5x_goes_on_where_we_stopped_and_we_where_t5x_stopped(trained):
  *_, fourth, fifth, sixth = _make_batches(6)
  trainer, step = _make_trainer(1), _make_t5x_step()
  state = _put(trained[2], trainer)
  manager = _make_t5x_manager(trained[1], WIDE)
  assert manager.latest_step() == 3
  theirs = manager.restore(step=3)
  assert int(theirs.step) == 3
  state, loss = _train(trainer, state, [fourth])
  theirs, their_loss = step(theirs, fourth)
  assert float(their_loss) == pytest.approx(loss, abs=1e-5)
  _assert_near(theirs.params, state.params, 1e-5)

  theirs, _ = step(theirs, fifth)
  manager.save(theirs)
  manager.wait_until_finished()
  state = _adopt(trained[1], trainer)
  assert int(state.step) == 5
  _assert_near(state.params, theirs.params, 0)
  state, loss = _train(trainer, state, [sixth])
  theirs, their_loss = step(theirs, sixth)
  assert float(their_loss) == pytest.approx(loss, abs=1e-5)
  _assert_near(state.params, theirs.params, 1e-5)
  assert int(state.step) == int(theirs.step) == 6


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
def test_what_t5x_writes_decodes_as_in_t5x(tmp_path, tied):
  """Both of T5X's writers: logits to 1e-5, and the same greedy queries."""
  checkpoints = NEEDS_T5X("t5x.checkpoints")
  config = dataclasses.replace(
    tiny_t5x.CONFIG, vocab_size=304, num_heads=8, logits_via_embedding=tied
  )
  initializer, partitioner = _make_t5x_state(config)
  state = initializer.from_scratch(jax.random.PRNGKey(0))
  legacy = checkpoints.Checkpointer(
    initializer.global_train_state_shape, partitioner, str(tmp_path / "classic")
  )
  (tmp_path / "classic").mkdir()
  (tmp_path / "orbax").mkdir()
  legacy.save(state)
  manager = _make_t5x_manager(tmp_path / "orbax", config)
  manager.save(state)
  manager.wait_until_finished()
  tiny_t5x.TOKENIZER.save(tmp_path)
  prompts = tiny_t5.make_rows([9, 20, 13], 20)
  targets = tiny_t5.make_rows([6, 3, 8], 8, seed=1)
  args = prompts, tiny_t5.shift_right(targets), targets
  module = _make_t5x_model(config).module
  apply = jax.jit(functools.partial(module.apply, enable_dropout=False))
  expected = apply({"params": state.params}, *args)
  for layout in ("classic", "orbax"):
    generator = load_query_generator(tmp_path / layout, tokenizer_path=tmp_path)
    assert generator.config == config
    logits = tiny_t5.apply(generator.module, generator.params, *args)
    is_text = targets != 0
    np.testing.assert_allclose(logits[is_text], expected[is_text], atol=1e-5)
  tokens, _ = decode(
    generator.module,
    generator.params,
    prompts,
    make_row_keys("abc", ["fi"] * 3, num_samples=1, seed=0),
    np.ones(config.vocab_size, bool),
    sampling=GREEDY,
    max_length=8,
  )
  written = _decode_greedily(apply, state.params, prompts, 8)
  np.testing.assert_array_equal(tokens[:, 0], written)


def _decode_greedily(apply, params, prompts, max_length):
  """Greedy tokens by the whole network, token by token; 0 after </s>."""
  written = np.zeros((len(prompts), max_length), np.int32)
  is_done = np.zeros(len(prompts), bool)
  # Not yet written positions are no padding, which T5X would mask.
  ones = np.ones_like(written)
  for position in range(max_length):
    logits = apply(
      {"params": params}, prompts, tiny_t5.shift_right(written), ones
    )
    best = np.asarray(logits)[:, position].argmax(-1)
    written[:, position] = np.where(is_done, 0, best)
    is_done |= best == 1
  return written
