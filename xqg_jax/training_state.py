"""The state of a training run: made, laid out over devices, saved, restored.

`MODEL_DIR/checkpoint_<step>` holds `params`, which every stage reads, and
`state`, which only training reads. It appears under its name when both are
complete, so an interrupted save leaves the one before as the newest.
"""

import dataclasses
import functools
import logging
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from xqg_jax.checkpoints import list_steps, step_folder
from xqg_jax.checkpoints.steps import PARAMS_ITEM
from xqg_jax.checkpoints.t5x import open_t5x, read_t5x_step
from xqg_jax.checkpoints.t5x_adafactor import STATE_ITEM, restore_opt_state
from xqg_jax.checkpoints.t5x_layouts import T5xCheckpoint
from xqg_jax.errors import InputError
from xqg_jax.files import atomic_path
from xqg_jax.sharding import (
  params_shardings,
  replicated,
)
from xqg_jax.trainable import Batch, TrainableModel


class TrainState(NamedTuple):
  """What a step changes: steps done, parameters, the optimizer's moments."""

  step: Int[Array, ""]
  params: Any
  opt_state: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Trainer:
  """Model, optimizer and mesh, and the step that joins them."""

  model: TrainableModel
  optimizer: optax.GradientTransformation
  mesh: Mesh
  seed: int

  @functools.cached_property
  def shapes(self) -> TrainState:
    """Shapes and dtypes of the state."""
    params = jax.eval_shape(self.model.init, jax.random.key(0))
    return TrainState(
      step=jax.ShapeDtypeStruct((), jnp.int32),
      params=params,
      opt_state=jax.eval_shape(self.optimizer.init, params),
    )

  @functools.cached_property
  def shardings(self) -> TrainState:
    """Where each array lies; the moments lie as their parameter does."""
    axes = self.model.param_axes()
    params = params_shardings(self.mesh, axes)
    everywhere = replicated(self.mesh)
    return TrainState(
      step=everywhere,
      params=params,
      opt_state=_opt_state_shardings(self.shapes, params, everywhere),
    )

  def init_state(self, params: Any | None = None) -> TrainState:
    """The state of step 0, from `params` or from random ones."""
    shardings = self.shardings
    if params is None:
      init = jax.jit(self.model.init, out_shardings=shardings.params)
      params = init(jax.random.key(self.seed))
    else:
      params = jax.device_put(params, shardings.params)
    make = jax.jit(self.optimizer.init, out_shardings=shardings.opt_state)
    step = jax.device_put(jnp.zeros((), jnp.int32), shardings.step)
    return TrainState(step, params, make(params))

  @functools.cached_property
  def step(
    self,
  ) -> Callable[
    [TrainState, Batch], tuple[TrainState, dict[str, Float[Array, ""]]]
  ]:
    """The compiled step; it takes over the memory of the state it is given."""
    return jax.jit(
      self._step,
      donate_argnums=0,
      out_shardings=(self.shardings, replicated(self.mesh)),
    )

  def _step(
    self, state: TrainState, batch: Batch
  ) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    # Dropout depends on seed and step alone, so a resumed run repeats it.
    rng = jax.random.fold_in(jax.random.key(self.seed), state.step)
    (loss, metrics), gradient = jax.value_and_grad(
      self.model.loss, has_aux=True
    )(state.params, batch, rng)
    updates, opt_state = self.optimizer.update(
      gradient, state.opt_state, state.params
    )
    params = optax.apply_updates(state.params, updates)
    metrics = {
      "loss": loss,
      **metrics,
      "gradient_norm": optax.tree.norm(gradient),
    }
    return TrainState(state.step + 1, params, opt_state), metrics


def _opt_state_shardings(
  shapes: TrainState, params_tree: Any, everywhere: jax.sharding.Sharding
) -> Any:
  """Finds the parameter that an array of the optimizer belongs to.

  Its path ends with the parameter's path. Arrays of another shape, as
  Adafactor's factors, are small and lie whole on every device.
  """
  parameters = {
    path: (leaf.shape, sharding)
    for (path, leaf), sharding in zip(
      jax.tree.leaves_with_path(shapes.params),
      jax.tree.leaves(params_tree),
      strict=True,
    )
  }

  def find(path: tuple[Any, ...], leaf: Any) -> jax.sharding.Sharding:
    for start in range(len(path)):
      shape, sharding = parameters.get(path[start:], (None, None))
      if shape == leaf.shape:
        return sharding
    return everywhere

  return jax.tree.map_with_path(find, shapes.opt_state)


def open_t5x_start(
  checkpoint_path: str | os.PathLike | None,
  *,
  train_steps: int,
  optimizer: str = "adafactor",
) -> tuple[T5xCheckpoint, int]:
  """The checkpoint and step from which a run goes on that T5X began.

  Raises:
    InputError: no T5X checkpoint, one at or beyond `train_steps`, or another
      optimizer than Adafactor.
  """
  if not optimizer.startswith("adafactor"):
    raise InputError(
      f"RESTORE_OPTIMIZER takes Adafactor's statistics, OPTIMIZER is "
      f"{optimizer}",
      mend='set OPTIMIZER to "adafactor", or leave RESTORE_OPTIMIZER out',
    )
  checkpoint = None if checkpoint_path is None else open_t5x(checkpoint_path)
  if checkpoint is None:
    raise InputError(
      "RESTORE_OPTIMIZER needs a T5X checkpoint",
      where=checkpoint_path,
      mend="give one as INITIAL_CHECKPOINT_PATH; our own runs go on by "
      "themselves",
    )
  step = read_t5x_step(checkpoint)
  if step >= train_steps:
    raise InputError(
      f"the checkpoint has {step} steps behind it, TRAIN_STEPS is "
      f"{train_steps}",
      where=checkpoint.where,
      mend="raise TRAIN_STEPS: it counts the steps of the whole run",
    )
  return checkpoint, step


def adopt_t5x_state(
  checkpoint: T5xCheckpoint, step: int, trainer: Trainer, params: Any
) -> TrainState:
  """The state in which T5X left a run, with Adafactor's statistics.

  Args:
    checkpoint: T5X's.
    step: its step.
    trainer: whose optimizer is Adafactor, too.
    params: the checkpoint's parameters.

  Raises:
    InputError: one of the two optimizers is another one.
  """
  opt_state = restore_opt_state(
    checkpoint.open("state/param_states/"),
    shapes=trainer.shapes.opt_state,
    shardings=trainer.shardings.opt_state,
    step=step,
    where=checkpoint.where,
  )
  return TrainState(
    step=jax.device_put(jnp.int32(step), trainer.shardings.step),
    params=jax.device_put(params, trainer.shardings.params),
    opt_state=opt_state,
  )


# ---------------------------------------------------------------- checkpoints


def save_state(
  model_dir: str | os.PathLike, state: TrainState, *, keep: int = 2
) -> pathlib.Path:
  """Writes `checkpoint_<step>` and removes all but the newest `keep`."""
  step = int(state.step)
  folder = step_folder(model_dir, step).absolute()
  items = {
    PARAMS_ITEM: state.params,
    STATE_ITEM: {"step": state.step, "opt_state": state.opt_state},
  }
  with atomic_path(folder) as partial:
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
      for name, tree in items.items():
        checkpointer.save(partial / name, tree)
  for old in list_steps(model_dir)[:-keep]:
    shutil.rmtree(step_folder(model_dir, old))
  return folder


def restore_state(
  model_dir: str | os.PathLike, trainer: Trainer
) -> TrainState | None:
  """Reads the newest good checkpoint, or returns None where there is none.

  One that cannot be read is told of and removed, so that the run can write
  that step again.
  """
  target = jax.tree.map(
    lambda shape, sharding: jax.ShapeDtypeStruct(
      shape.shape, shape.dtype, sharding=sharding
    ),
    trainer.shapes,
    trainer.shardings,
  )
  for step in reversed(list_steps(model_dir)):
    folder = step_folder(model_dir, step).absolute()
    try:
      return _read_state(folder, target)
    except Exception as error:  # Orbax and TensorStore raise many kinds.
      logging.warning(
        "%s is damaged and removed (%s)", folder, str(error).splitlines()[0]
      )
      shutil.rmtree(folder)
  return None


def _read_state(folder: pathlib.Path, target: TrainState) -> TrainState:
  items: Mapping[str, Any] = {
    PARAMS_ITEM: target.params,
    STATE_ITEM: {"step": target.step, "opt_state": target.opt_state},
  }
  with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
    found = {
      name: checkpointer.restore(
        folder / name, args=ocp.args.StandardRestore(tree)
      )
      for name, tree in items.items()
    }
  state = found[STATE_ITEM]
  return TrainState(state["step"], found[PARAMS_ITEM], state["opt_state"])
