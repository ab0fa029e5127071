"""Checkpoints: written beside the training, verified, refused when bad."""

import errno
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import tiny_training
from tests.helpers.tiny_checkpoints import save_state
from tests.helpers.tiny_collection import make_tokenizer
from tests.helpers.tiny_training import SmallModel, train_small
from xqg_jax.checkpoints import list_steps, load_params, step_folder
from xqg_jax.errors import InputError, NativeError
from xqg_jax.io.files import read_json, sha256_file
from xqg_jax.io.full_disk import tell_of_full_disk
from xqg_jax.io.sealed_folders import find_damage
from xqg_jax.runtime.sharding import make_mesh, shard_batch
from xqg_jax.training import checkpoints
from xqg_jax.training.checkpoints import (
  CheckpointWriter,
  read_pending_metrics,
  restore_state,
)
from xqg_jax.training.optimizers import make_optimizer
from xqg_jax.training.state import Trainer


def make_trainer(mesh=None, **optimizer):
  model = SmallModel(tokenizer=make_tokenizer("t5"))
  mesh = mesh or make_mesh(devices=jax.devices()[:1])
  optimizer = make_optimizer(
    **{"optimizer": "adamw", "learning_rate": 0.1, **optimizer}
  )
  return Trainer(model, optimizer, mesh, 0)


def take_steps(trainer, state, count):
  rows = {k: v[:8] for k, v in tiny_training.make_examples().items()}
  for _ in range(count):
    state, _ = trainer.step(state, shard_batch(trainer.mesh, rows))
  return state


def to_bytes(state):
  return [np.array(leaf).tobytes() for leaf in jax.tree.leaves(state)]


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_sharded_state_comes_back_bit_for_bit(optimizer, tmp_path):
  trainer = make_trainer(make_mesh(2), optimizer=optimizer)
  state = take_steps(trainer, trainer.init_state(), 2)
  folder = save_state(tmp_path, state)
  restored = restore_state(tmp_path, trainer)
  assert to_bytes(restored) == to_bytes(state)
  jax.tree.map(lambda x, y: x.sharding == y.sharding or 1 / 0, restored, state)
  # What every other stage reads.
  jax.tree.map(
    np.testing.assert_array_equal, load_params(folder), dict(state.params)
  )


def test_manifest_lists_every_file(tmp_path):
  trainer = make_trainer()
  with CheckpointWriter(tmp_path, seed=7) as writer:
    writer.save(trainer.init_state(), metrics=[{"loss": 1.5}])
  folder = step_folder(tmp_path, 0)
  manifest = read_json(folder / "manifest.json")
  assert (manifest["step"], manifest["seed"]) == (0, 7)
  files = {
    str(path.relative_to(folder)): path
    for path in folder.rglob("*")
    if path.is_file() and path != folder / "manifest.json"
  }
  assert manifest["files"] == {
    name: {"size": path.stat().st_size, "sha256": sha256_file(path)}
    for name, path in files.items()
  }
  assert {"metrics.json", "params/_METADATA"} <= files.keys()
  assert find_damage(folder) is None
  assert read_pending_metrics(tmp_path, 0) == [{"loss": 1.5}]


def test_training_goes_on_during_a_save(tmp_path, monkeypatch):
  trainer = make_trainer()
  state = take_steps(trainer, trainer.init_state(), 1)
  expected = to_bytes(state)
  may_write = threading.Event()
  write = checkpoints._write_item

  def write_later(*arguments):
    assert may_write.wait(60)
    write(*arguments)

  monkeypatch.setattr(checkpoints, "_write_item", write_later)
  with CheckpointWriter(tmp_path) as writer:
    writer.save(state)
    state = take_steps(trainer, state, 3)  # takes the state's memory over
    writer.check()
    assert list_steps(tmp_path) == []
    may_write.set()
    writer.wait()
  assert int(state.step) == 4
  assert list_steps(tmp_path) == [1]
  assert to_bytes(restore_state(tmp_path, trainer)) == expected


def test_two_are_kept_and_half_ones_cleared(tmp_path):
  trainer = make_trainer()
  state = trainer.init_state()
  for name in (".checkpoint_3.partial", ".checkpoint_1.removed"):
    (tmp_path / name / "params").mkdir(parents=True)
  assert restore_state(tmp_path, trainer) is None
  assert list(tmp_path.iterdir()) == []
  with CheckpointWriter(tmp_path) as writer:
    for _ in range(4):
      state = take_steps(trainer, state, 1)
      writer.save(state)
  assert sorted(path.name for path in tmp_path.iterdir()) == [
    "checkpoint_3",
    "checkpoint_4",
  ]


def change_one_bit(tree):
  leaves, structure = jax.tree.flatten(tree)
  bits = np.array(leaves[-1]).view(np.uint32)
  bits.flat[-1] ^= 1
  leaves[-1] = jnp.asarray(bits.view(leaves[-1].dtype))
  return structure.unflatten(leaves)


def test_what_is_read_back_otherwise_does_not_count(tmp_path, monkeypatch):
  trainer = make_trainer()
  state = trainer.init_state()
  save_state(tmp_path, state)
  before = to_bytes(state)
  write = checkpoints._write_item
  monkeypatch.setattr(
    checkpoints,
    "_write_item",
    lambda folder, tree: write(folder, change_one_bit(tree)),
  )
  # One leaf at a time, so that the last one is in a group of its own.
  monkeypatch.setattr(checkpoints, "_VERIFIED_BYTES", 1)
  state = take_steps(trainer, state, 1)
  with CheckpointWriter(tmp_path) as writer:
    writer.save(state)
    with pytest.raises(NativeError, match="table was read back with other"):
      writer.wait()
  assert [path.name for path in tmp_path.iterdir()] == ["checkpoint_0"]
  assert to_bytes(restore_state(tmp_path, trainer)) == before


def test_whole_checkpoint_of_another_run_is_refused_not_removed(tmp_path):
  trainer = make_trainer()
  save_state(tmp_path, trainer.init_state())
  with pytest.raises(InputError, match="not a checkpoint of this run"):
    restore_state(tmp_path, make_trainer(optimizer="adafactor"))
  assert list_steps(tmp_path) == [0]
  assert restore_state(tmp_path, trainer) is not None


@pytest.mark.parametrize(
  "error",
  [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    ValueError("RESOURCE_EXHAUSTED: writing d/1a2b: No space left on device"),
  ],
)
def test_kinds_of_full_disk(error, tmp_path):
  with pytest.raises(InputError, match="the disk is full"):
    with tell_of_full_disk(tmp_path):
      raise error
  with (
    pytest.raises(OSError, match="Input/output"),
    tell_of_full_disk(tmp_path),
  ):
    raise OSError(errno.EIO, "Input/output error")


def test_run_goes_on_after_a_full_disk(tmp_path, monkeypatch):
  tiny_training.use_small_runs(monkeypatch.setattr)
  write = checkpoints._write_item

  def fail(folder, tree):
    write(folder, tree)
    if "checkpoint_6" in str(folder) and folder.name == "state":
      raise OSError(errno.ENOSPC, "No space left on device")

  run = tmp_path / "run"
  settings = {"train_steps": 7, "checkpoint_period": 2}
  with monkeypatch.context() as patch:
    patch.setattr(checkpoints, "_write_item", fail)
    with pytest.raises(InputError) as raised:
      train_small(run, **settings)
  message = str(raised.value)
  assert message.startswith(f"{run}: the disk is full (")
  assert message.endswith(
    "free some space; the same command goes on where it stopped"
  )
  assert list_steps(run) == [2, 4]
  assert [find_damage(step_folder(run, step)) for step in (2, 4)] == [None] * 2
  assert not list(run.glob(".checkpoint*"))
  train_small(run, **settings)
  assert list_steps(run) == [6, 7]
