"""Optimizers and learning-rate schedules, by name."""

import functools
from typing import Any

import jax
import optax

from xqg_jax.errors import InputError


def make_schedule(
  *,
  schedule: str,
  learning_rate: float,
  train_steps: int,
  warmup_steps: int = 0,
) -> optax.Schedule:
  """Makes the learning rate as a function of the step.

  Args:
    schedule: what follows the warm-up: `constant`, or a `linear` or `cosine`
      way down to 0 at `train_steps`.
    learning_rate: the peak.
    train_steps: steps of the whole run.
    warmup_steps: steps in which the rate rises linearly from 0.

  Raises:
    InputError: an unknown name, or a warm-up as long as the run.

  >>> rate = make_schedule(
  ...   schedule="linear", learning_rate=1.0, train_steps=12, warmup_steps=2
  ... )
  >>> [round(float(rate(step)), 2) for step in (0, 1, 2, 7, 12)]
  [0.0, 0.5, 1.0, 0.5, 0.0]
  """
  if not 0 <= warmup_steps < train_steps:
    raise InputError(
      f"{warmup_steps} warm-up steps do not fit in {train_steps} steps",
      mend="set 0 <= warmup_steps < TRAIN_STEPS",
    )
  decay_steps = train_steps - warmup_steps
  shapes = {
    "constant": optax.constant_schedule(learning_rate),
    "linear": optax.linear_schedule(learning_rate, 0.0, decay_steps),
    "cosine": optax.cosine_decay_schedule(learning_rate, decay_steps),
  }
  _check_name(schedule, shapes, "schedule")
  warmup = optax.linear_schedule(0.0, learning_rate, max(1, warmup_steps))
  return optax.join_schedules([warmup, shapes[schedule]], [warmup_steps])


def make_optimizer(
  *,
  optimizer: str,
  learning_rate: optax.ScalarOrSchedule,
  weight_decay: float = 0.0,
  gradient_clip: float | None = None,
) -> optax.GradientTransformation:
  """Makes the optimizer.

  Args:
    optimizer: `adamw` (Loshchilov and Hutter 2019), `adafactor` (Shazeer and
      Stern 2018, with updates scaled by the size of the parameter, as T5 was
      trained), or `adafactor_absolute`, the same without that scaling, which
      takes learning rates made for AdamW.
    learning_rate: a number or a schedule.
    weight_decay: AdamW's decoupled decay, times the learning rate;
      Adafactor's is per step. Biases and norm scales do not decay.
    gradient_clip: the largest global norm of the gradient; None: no limit.

  Raises:
    InputError: an unknown name.
  """
  makers = {
    "adamw": _make_adamw,
    "adafactor": functools.partial(_make_adafactor, is_relative=True),
    "adafactor_absolute": functools.partial(_make_adafactor, is_relative=False),
  }
  _check_name(optimizer, makers, "optimizer")
  update = makers[optimizer](learning_rate, weight_decay)
  if gradient_clip is None:
    return update
  return optax.chain(optax.clip_by_global_norm(gradient_clip), update)


def _make_adamw(
  learning_rate: optax.ScalarOrSchedule, weight_decay: float
) -> optax.GradientTransformation:
  return optax.adamw(
    learning_rate, weight_decay=weight_decay, mask=weight_decay_mask
  )


def _make_adafactor(
  learning_rate: optax.ScalarOrSchedule,
  weight_decay: float,
  *,
  is_relative: bool,
) -> optax.GradientTransformation:
  return optax.adafactor(
    learning_rate,
    multiply_by_parameter_scale=is_relative,
    weight_decay_rate=weight_decay or None,
    weight_decay_mask=weight_decay_mask,
  )


def weight_decay_mask(params: Any) -> Any:
  """Marks the parameters that decay: all but biases and norm scales.

  >>> weight_decay_mask({"mlp": {"kernel": 1, "bias": 2}, "norm": {"scale": 3}})
  {'mlp': {'bias': False, 'kernel': True}, 'norm': {'scale': False}}
  """
  return jax.tree_util.tree_map_with_path(
    lambda path, _: path[-1].key not in ("bias", "scale"), params
  )


def _check_name(name: str, known: dict[str, Any], what: str) -> None:
  if name not in known:
    raise InputError(
      f"unknown {what} {name!r}", mend="use one of " + ", ".join(known)
    )
