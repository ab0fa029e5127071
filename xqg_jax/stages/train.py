"""Stage `train`: training of a query generator or a dual encoder."""

import importlib.util
import os
from collections.abc import Mapping, Sequence
from typing import Any

import optax

from xqg_jax.data.generated_pairs import GeneratedPairs
from xqg_jax.errors import InputError
from xqg_jax.io.full_disk import tell_of_full_disk
from xqg_jax.io.paths import Path, to_path
from xqg_jax.io.typed_json import Count, Positive, Seed
from xqg_jax.runtime.sharding import check_batch_size, make_mesh, override_rules
from xqg_jax.runtime.stop_request import StopRequest
from xqg_jax.training.dual_encoder_model import DualEncoderModel
from xqg_jax.training.loop import Periods
from xqg_jax.training.optimizers import make_optimizer, make_schedule
from xqg_jax.training.query_generator_model import QueryGeneratorModel
from xqg_jax.training.run import TrainingRun, open_start
from xqg_jax.training.state import Trainer
from xqg_jax.training.trainable import (
  TrainableModel,
  completed_tokenizer,
)

__all__ = ["DualEncoderModel", "QueryGeneratorModel", "train"]


def train(
  *,
  model_dir: str | os.PathLike,
  model: TrainableModel,
  mixture_or_task_name: str,
  train_steps: Positive,
  batch_size: Positive,
  task_feature_lengths: Mapping[str, int] | None = None,
  data_dir: str | os.PathLike | None = None,
  generated_pairs: GeneratedPairs | None = None,
  initial_checkpoint_path: str | os.PathLike | None = None,
  restore_optimizer: bool = False,
  optimizer: str = "adamw",
  learning_rate: float = 1e-4,
  schedule: str = "constant",
  warmup_steps: Count = 0,
  weight_decay: float = 0.0,
  gradient_clip: float | None = 1.0,
  checkpoint_period: Positive = 1000,
  log_period: Positive = 50,
  dev_questions: str | os.PathLike | None = None,
  dev_passages: str | os.PathLike | None = None,
  dev_period: Positive | None = None,
  num_partitions: Positive = 1,
  axis_rules: Sequence[Sequence[Any]] = (),
  seed: Seed = 0,
) -> Path:
  """Trains a model; an interrupted call goes on where its last save was.

  The same call gives the same bytes, whether interrupted or not. Checkpoints
  are written while training goes on, and count once they have been read back;
  the newest two are kept. SIGTERM ends the call after the running step, with a
  checkpoint and without `manifest.json`.

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
    generated_pairs: generated queries for a dual encoder. With them there are,
      beside each of its tasks, `<task>_generated`, which has nothing else, and
      `<task>_mixed`, the mixture of both.
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
    dev_questions: XOR-TyDi questions with answers, on which a dual encoder is
      measured by retrieval (`dev_R@2kt`, `dev_MRR@10`, in percent).
    dev_passages: the passages among which theirs are looked for.
    dev_period: steps between these measurements; None: only after the last.
    num_partitions: devices over which parameters are split; the others share
      the batch.
    axis_rules: entries that replace those of `sharding.LOGICAL_AXIS_RULES`,
      such as `(("embed", "data"),)`.
    seed: decides parameters, order of the examples, draws and dropout.

  Returns:
    `model_dir`. It holds `config.json`, the tokenizer, `checkpoint_<step>`,
    `metrics.jsonl`, `tensorboard` and, when finished, `manifest.json`.

  Raises:
    InputError: whatever does not fit together, a folder that holds another
      run, a loss that is not finite any more (its batch is kept), a full disk.
    Stopped: SIGTERM came; the same call goes on.
  """
  arguments = dict(locals())
  with StopRequest() as stop, tell_of_full_disk(to_path(model_dir)):
    _check_packages()
    if restore_optimizer:
      open_start(arguments)
    model, params = model.complete(initial_checkpoint_path)
    lengths = model.get_feature_lengths(task_feature_lengths)
    _check_dev(model, dev_questions, dev_passages)
    run = TrainingRun(
      arguments=arguments,
      lengths=lengths,
      schedule=_make_schedule(arguments),
      trainer=_make_trainer(model, arguments),
      periods=Periods(
        train_steps=train_steps,
        log=log_period,
        checkpoint=checkpoint_period,
        dev=dev_period,
      ),
      stop=stop,
    )
    if not run.is_finished:
      _register_tasks(model, mixture_or_task_name, data_dir, generated_pairs)
    run.claim_folder()
    if not run.is_finished:
      run.go_on(params, _list_languages(mixture_or_task_name))
  return run.folder


def _register_tasks(
  model: TrainableModel,
  mixture_or_task_name: str,
  data_dir: str | os.PathLike | None,
  generated_pairs: GeneratedPairs | None,
) -> None:
  # SeqIO pulls in TensorFlow, which only training needs.
  from xqg_jax import tasks

  name, ending = tasks.split_name(mixture_or_task_name)
  _check_generated(model, generated_pairs, name, ending)
  if ending != tasks.GENERATED:
    _register_own_tasks(model, name, data_dir)
  if generated_pairs is not None:
    tasks.register_generated_tasks(
      name=name,
      pairs=generated_pairs,
      tokenizer=completed_tokenizer(model.tokenizer),
      config=model.task_settings()["encoder_config"],
    )


def _register_own_tasks(
  model: TrainableModel, name: str, data_dir: str | os.PathLike | None
) -> None:
  """Registers a model's tasks, shipped ones or those of a local folder."""
  from xqg_jax import tasks

  settings = model.task_settings()
  is_shipped = tasks.register_tasks_of(
    name,
    tokenizer=completed_tokenizer(model.tokenizer),
    encoder_config=settings.get("encoder_config"),
    tfds_data_dir=str(data_dir) if data_dir else None,
    language_in=settings.get("language_in", "prompt"),
  )
  if is_shipped or data_dir is None:
    return
  local_name, kind, _ = name.partition(f"_{model.task_kind}")
  if not kind:
    raise InputError(
      f"{name!r} is not a task of this model for a local folder",
      mend=f"set MIXTURE_OR_TASK_NAME to <name>_{model.task_kind}",
    )
  tasks.register_local_tasks(name=local_name, data_dir=data_dir, **settings)


def _list_languages(mixture_or_task_name: str) -> list[str]:
  from xqg_jax.tasks.generation import list_languages

  return list_languages(mixture_or_task_name)


def _check_generated(
  model: TrainableModel,
  generated_pairs: GeneratedPairs | None,
  name: str,
  ending: str,
) -> None:
  if generated_pairs is None and ending:
    raise InputError(
      f"the task {name + ending!r} learns from generated queries",
      mend="add --gin_file=generated_pairs.gin",
    )
  if generated_pairs is not None and not model.is_encoder:
    raise InputError(
      "only a dual encoder trains on generated queries",
      mend="leave GENERATED_PAIRS out",
    )
  if generated_pairs is not None and not ending:
    raise InputError(
      f"the task {name!r} does not use GENERATED_PAIRS",
      mend=f"set MIXTURE_OR_TASK_NAME to {name}_generated or {name}_mixed",
    )


def _check_dev(
  model: TrainableModel,
  questions: str | os.PathLike | None,
  passages: str | os.PathLike | None,
) -> None:
  if questions is None and passages is None:
    return
  if not model.is_encoder:
    raise InputError(
      "dev retrieval measures dual encoders only",
      mend="leave DEV_QUESTIONS and DEV_PASSAGES out",
    )
  if questions is None or passages is None:
    raise InputError(
      "only one of DEV_QUESTIONS and DEV_PASSAGES is set",
      mend="set both or neither",
    )


def _check_packages() -> None:
  if importlib.util.find_spec("seqio") is None:
    raise InputError(
      "training reads its data by SeqIO, which is not installed",
      mend="run `pip install 'xqg_jax[tasks]'`",
    )


def _make_schedule(arguments: Mapping[str, Any]) -> optax.Schedule:
  names = ("schedule", "learning_rate", "train_steps", "warmup_steps")
  return make_schedule(**{name: arguments[name] for name in names})


def _make_trainer(
  model: TrainableModel, arguments: Mapping[str, Any]
) -> Trainer:
  names = ("optimizer", "weight_decay", "gradient_clip")
  optimizer = make_optimizer(
    learning_rate=_make_schedule(arguments),
    **{name: arguments[name] for name in names},
  )
  try:
    mesh = make_mesh(arguments["num_partitions"])
  except ValueError as error:
    raise InputError(str(error), mend="choose another num_partitions") from None
  check_batch_size(mesh, arguments["batch_size"])
  rules = override_rules(arguments["axis_rules"])
  return Trainer(model, optimizer, mesh, arguments["seed"], rules)
