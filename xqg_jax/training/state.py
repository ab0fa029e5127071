"""Training state: creation, layout over devices, update step."""

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float

from xqg_jax.checkpoints.t5x.adafactor import restore_opt_state
from xqg_jax.checkpoints.t5x.layouts import T5xCheckpoint
from xqg_jax.checkpoints.t5x.networks import open_t5x, read_t5x_step
from xqg_jax.errors import InputError
from xqg_jax.runtime.sharding import (
  LOGICAL_AXIS_RULES,
  AxisRules,
  moments_shardings,
  params_shardings,
  place_copies,
  replicated,
)
from xqg_jax.training.trainable import Batch, TrainableModel


class TrainState(NamedTuple):
  """What a step changes: steps done, parameters, the optimizer's moments.

  Arrays, or in their places their shapes or shardings.
  """

  step: Any
  params: Any
  opt_state: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Trainer:
  """Model, optimizer and mesh, and the step that joins them."""

  model: TrainableModel
  optimizer: optax.GradientTransformation
  mesh: Mesh
  seed: int
  axis_rules: AxisRules = LOGICAL_AXIS_RULES

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
    shapes = self.shapes
    params = params_shardings(
      self.mesh,
      self.model.param_axes(),
      shapes.params,
      self.axis_rules,
    )
    return TrainState(
      step=replicated(self.mesh),
      params=params,
      opt_state=moments_shardings(shapes.opt_state, shapes.params, params),
    )

  def init_state(self, params: Any | None = None) -> TrainState:
    """The state of step 0, from `params` or from random ones."""
    shardings = self.shardings
    if params is None:
      init = jax.jit(self.model.init, out_shardings=shardings.params)
      params = init(jax.random.key(self.seed))
    else:
      params = place_copies(params, shardings.params)
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
    rng = jax.random.key(self.seed, impl="threefry2x32")
    rng = jax.random.fold_in(rng, state.step)
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
    params=place_copies(params, trainer.shardings.params),
    opt_state=opt_state,
  )
