"""Stage `train`: trains a query generator or a dual encoder."""

import importlib.util
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from xqg_jax.checkpoints import step_folder
from xqg_jax.checkpoints.t5x_layouts import T5xCheckpoint
from xqg_jax.dual_encoder_model import DualEncoderModel
from xqg_jax.errors import InputError
from xqg_jax.files import claim_output_dir, write_json
from xqg_jax.optimizers import make_optimizer, make_schedule
from xqg_jax.query_generator_model import QueryGeneratorModel
from xqg_jax.sharding import make_mesh, shard_batch
from xqg_jax.trainable import Lengths, TrainableModel
from xqg_jax.training_metrics import MetricsLog
from xqg_jax.training_state import (
  Trainer,
  TrainState,
  adopt_t5x_state,
  open_t5x_start,
  restore_state,
  save_state,
)

__all__ = ["DualEncoderModel", "QueryGeneratorModel", "train"]

MANIFEST_FILE = "manifest.json"
# Arguments that may change when a run goes on; the rest decides its bytes.
_FREE_ARGUMENTS = ("model_dir", "log_period", "checkpoint_period")


def train(
  *,
  model_dir: str | os.PathLike,
  model: TrainableModel,
  mixture_or_task_name: str,
  train_steps: int,
  batch_size: int,
  task_feature_lengths: Mapping[str, int] | None = None,
  data_dir: str | os.PathLike | None = None,
  initial_checkpoint_path: str | os.PathLike | None = None,
  restore_optimizer: bool = False,
  optimizer: str = "adamw",
  learning_rate: float = 1e-4,
  schedule: str = "constant",
  warmup_steps: int = 0,
  weight_decay: float = 0.0,
  gradient_clip: float | None = 1.0,
  checkpoint_period: int = 1000,
  log_period: int = 50,
  num_partitions: int = 1,
  seed: int = 0,
) -> pathlib.Path:
  """Trains a model; an interrupted call goes on where its last save was.

  The same call gives the same bytes, whether interrupted or not. The newest
  two checkpoints are kept.

  Args:
    model_dir: folder to write. Every other stage takes it as CHECKPOINT_PATH.
    model: `QueryGeneratorModel` or `DualEncoderModel`.
    mixture_or_task_name: a SeqIO task or mixture; its split `train` is used.
    train_steps: optimizer steps of the whole run.
    batch_size: examples of a step, over all devices together.
    task_feature_lengths: tokens of each task feature: `inputs` and `targets`,
      or `query` and `passage`; by default the model's own.
    data_dir: a folder with `train_pairs.jsonl`; its tasks
      `<name>_generation`, `<name>_generation_<language>` and
      `<name>_dual_encoder` are registered for any `<name>`. For a shipped task
      (`xqg_generation`, `xdr_xor_tydi`, `xdr_nq`, ...) the folder that
      `prepare` wrote; None: where TFDS usually keeps its data.
    initial_checkpoint_path: where to begin; None begins from random
      parameters.
    restore_optimizer: goes on where T5X stopped: takes the step and Adafactor's
      statistics of `initial_checkpoint_path` besides its parameters.
    optimizer: `adamw`, `adafactor` or `adafactor_absolute`.
    learning_rate: its peak.
    schedule: `constant`, `linear` or `cosine`, after the warm-up.
    warmup_steps: steps in which the learning rate rises from 0.
    weight_decay: decay of all but biases and norm scales.
    gradient_clip: the largest global norm of the gradient; None: no limit.
    checkpoint_period: steps between checkpoints; the last step always has one.
    log_period: steps between the rows of `metrics.jsonl`.
    num_partitions: devices over which parameters are split; the others share
      the batch.
    seed: decides parameters, order of the examples, draws and dropout.

  Returns:
    `model_dir`. It holds `config.json`, the tokenizer, `checkpoint_<step>`,
    `metrics.jsonl` and, when finished, `manifest.json`.

  Raises:
    InputError: whatever does not fit together, a folder that holds another
      run, or a loss that is not finite any more.
  """
  arguments = dict(locals())
  _check_packages()
  if restore_optimizer:
    _open_start(arguments)
  model, params = model.complete(initial_checkpoint_path)
  lengths = model.get_feature_lengths(task_feature_lengths)
  trainer = _make_trainer(model, arguments)
  model.register_tasks(mixture_or_task_name, data_dir)
  folder = claim_output_dir(
    model_dir,
    stage="train",
    arguments={
      **{k: v for k, v in arguments.items() if k not in _FREE_ARGUMENTS},
      "task_feature_lengths": lengths,
      "model": model.describe(),
    },
  )
  if not (folder / MANIFEST_FILE).exists():
    model.save_files(folder)
    _go_on(folder, trainer, params, lengths, arguments)
  return folder


def _go_on(
  folder: pathlib.Path,
  trainer: Trainer,
  params: Any | None,
  lengths: Lengths,
  arguments: Mapping[str, Any],
) -> None:
  """Trains from the newest checkpoint, or from `params`, to the end."""
  state = restore_state(folder, trainer)
  if state is None and arguments["restore_optimizer"]:
    start = _open_start(arguments)
    state = adopt_t5x_state(*start, trainer, params)
  elif state is None:
    state = trainer.init_state(params)
  start_step, train_steps = int(state.step), arguments["train_steps"]
  batches = _make_batches(
    trainer.model,
    task_feature_lengths=lengths,
    start_step=start_step,
    **{k: arguments[k] for k in ("mixture_or_task_name", "batch_size", "seed")},
  )
  log = MetricsLog(
    folder,
    start_step=start_step,
    train_steps=train_steps,
    batch_size=arguments["batch_size"],
  )
  _run_steps(
    trainer,
    state,
    batches,
    log,
    folder=folder,
    **{
      k: arguments[k]
      for k in ("train_steps", "log_period", "checkpoint_period")
    },
  )
  write_json(
    folder / MANIFEST_FILE,
    {
      "train_steps": train_steps,
      "checkpoint": step_folder(folder, train_steps).name,
      "last_metrics": log.last_row,
    },
  )


def _open_start(arguments: Mapping[str, Any]) -> tuple[T5xCheckpoint, int]:
  return open_t5x_start(
    arguments["initial_checkpoint_path"],
    train_steps=arguments["train_steps"],
    optimizer=arguments["optimizer"],
  )


def _check_packages() -> None:
  if importlib.util.find_spec("seqio") is None:
    raise InputError(
      "training reads its data by SeqIO, which is not installed",
      mend="run `pip install 'xqg_jax[tasks]'`",
    )


def _make_trainer(
  model: TrainableModel, arguments: Mapping[str, Any]
) -> Trainer:
  rate = make_schedule(
    **{
      k: arguments[k]
      for k in ("schedule", "learning_rate", "train_steps", "warmup_steps")
    }
  )
  optimizer = make_optimizer(
    learning_rate=rate,
    **{k: arguments[k] for k in ("optimizer", "weight_decay", "gradient_clip")},
  )
  mesh = _make_mesh(arguments["num_partitions"], arguments["batch_size"])
  return Trainer(model, optimizer, mesh, arguments["seed"])


def _make_mesh(num_partitions: int, batch_size: int) -> jax.sharding.Mesh:
  try:
    mesh = make_mesh(num_partitions)
  except ValueError as error:
    raise InputError(str(error), mend="choose another num_partitions") from None
  if batch_size < 1 or batch_size % mesh.shape["data"]:
    raise InputError(
      f"BATCH_SIZE {batch_size} cannot be split over {mesh.shape['data']} "
      "groups of devices",
      mend="choose a multiple",
    )
  return mesh


def _make_batches(
  model: TrainableModel, **arguments: Any
) -> Iterator[dict[str, np.ndarray]]:
  """The batches; SeqIO and TensorFlow are imported no earlier than here."""
  from xqg_jax import training_data

  training_data.check_vocabulary(
    arguments["mixture_or_task_name"], model.tokenizer
  )
  return training_data.make_batches(
    feature_converter=model.make_feature_converter(),
    num_draws=model.num_draws,
    **arguments,
  )


def _run_steps(
  trainer: Trainer,
  state: TrainState,
  batches: Iterator[dict[str, np.ndarray]],
  log: MetricsLog,
  *,
  folder: pathlib.Path,
  train_steps: int,
  log_period: int,
  checkpoint_period: int,
) -> None:
  with log:
    for step in range(int(state.step) + 1, train_steps + 1):
      batch = shard_batch(trainer.mesh, next(batches))
      state, metrics = trainer.step(state, batch)
      log.add(metrics)
      is_last = step == train_steps
      if is_last or step % log_period == 0:
        log.write_row(step)
      if is_last or step % checkpoint_period == 0:
        log.fetch()  # never keep parameters that are not finite
        save_state(folder, state)
