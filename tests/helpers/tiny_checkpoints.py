"""Checkpoints of a training state, written at once."""

import os

import jax
import jax.numpy as jnp

from xqg_jax.checkpoints import step_folder
from xqg_jax.io.paths import Path
from xqg_jax.training.checkpoints import CheckpointWriter
from xqg_jax.training.state import TrainState


def save_state(model_dir: str | os.PathLike, state: TrainState) -> Path:
  """Writes and verifies `checkpoint_<step>`; returns its folder."""
  state = jax.tree.map(jnp.asarray, state)
  with CheckpointWriter(model_dir) as writer:
    writer.save(state)
    writer.wait()
  return step_folder(model_dir, int(state.step))
