"""Stage `train`: trains a query generator or a dual encoder."""

import contextlib
import dataclasses
import importlib.util
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from jax.experimental import multihost_utils

from xqg_jax.checkpoint_files import tell_of_full_disk
from xqg_jax.checkpoints import step_folder
from xqg_jax.checkpoints.t5x_layouts import T5xCheckpoint
from xqg_jax.dual_encoder_model import DualEncoderModel
from xqg_jax.errors import InputError, Stopped
from xqg_jax.files import claim_output_dir, lock_folder, write_json
from xqg_jax.generated_pairs import GeneratedPairs
from xqg_jax.optimizers import make_optimizer, make_schedule
from xqg_jax.query_generator_model import QueryGeneratorModel
from xqg_jax.sharding import (
  check_batch_size,
  find_batch_part,
  make_mesh,
  override_rules,
)
from xqg_jax.stopping import StopRequest
from xqg_jax.trainable import Lengths, TrainableModel
from xqg_jax.training_checkpoints import (
  CheckpointWriter,
  read_pending_metrics,
  restore_state,
)
from xqg_jax.training_loop import DevMeasure, Periods, TrainingLoop
from xqg_jax.training_metrics import MetricsLog
from xqg_jax.training_state import (
  Trainer,
  TrainState,
  adopt_t5x_state,
  open_t5x_start,
)

__all__ = ["DualEncoderModel", "QueryGeneratorModel", "train"]

MANIFEST_FILE = "manifest.json"
# Arguments that may change when a run goes on; the rest decides its bytes.
_FREE_ARGUMENTS = (
  "model_dir",
  "log_period",
  "checkpoint_period",
  "dev_questions",
  "dev_passages",
  "dev_period",
)


def train(
  *,
  model_dir: str | os.PathLike,
  model: TrainableModel,
  mixture_or_task_name: str,
  train_steps: int,
  batch_size: int,
  task_feature_lengths: Mapping[str, int] | None = None,
  data_dir: str | os.PathLike | None = None,
  generated_pairs: GeneratedPairs | None = None,
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
  dev_questions: str | os.PathLike | None = None,
  dev_passages: str | os.PathLike | None = None,
  dev_period: int | None = None,
  num_partitions: int = 1,
  axis_rules: Sequence[Sequence[Any]] = (),
  seed: int = 0,
) -> pathlib.Path:
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
  with StopRequest() as stop, tell_of_full_disk(pathlib.Path(model_dir)):
    _check_packages()
    if restore_optimizer:
      _open_start(arguments)
    model, params = model.complete(initial_checkpoint_path)
    lengths = model.get_feature_lengths(task_feature_lengths)
    _check_dev(model, dev_questions, dev_passages)
    run = _Run(
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
      run.go_on(params)
  return run.folder


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Run:
  """A call of `train`, checked and put together.

  Attributes:
    arguments: as `train` was given them.
    lengths: of all task features.
    schedule: learning rate by steps done.
    trainer: with the complete model.
    periods: when what is due.
    stop: whether SIGTERM has come.
  """

  arguments: Mapping[str, Any]
  lengths: Lengths
  schedule: optax.Schedule
  trainer: Trainer
  periods: Periods
  stop: StopRequest

  @property
  def folder(self) -> pathlib.Path:
    """MODEL_DIR."""
    return pathlib.Path(self.arguments["model_dir"])

  @property
  def is_finished(self) -> bool:
    """Whether all steps have been taken, by this call or one before."""
    return (self.folder / MANIFEST_FILE).exists()

  def claim_folder(self) -> None:
    """Makes the folder this run's own; the first process begins."""
    deciding = {
      k: v for k, v in self.arguments.items() if k not in _FREE_ARGUMENTS
    }
    generated = deciding["generated_pairs"]
    for is_turn in (_is_first(), not _is_first()):
      if is_turn:
        claim_output_dir(
          self.folder,
          stage="train",
          arguments={
            **deciding,
            "generated_pairs": generated
            and {**generated.describe(), "share": generated.share},
            "task_feature_lengths": self.lengths,
            "model": self.trainer.model.describe(),
          },
        )
      _wait_for_others("folder_is_claimed")

  def go_on(self, params: Any | None) -> None:
    """Trains from the newest checkpoint, or from `params`, to the end."""
    with contextlib.ExitStack() as stack:
      if _is_first():
        stack.enter_context(lock_folder(self.folder))
        self.trainer.model.save_files(
          self.folder, self.arguments["mixture_or_task_name"]
        )
      dev = self._make_dev()
      state, saved_step = self._find_start(params)
      log = stack.enter_context(self._open_log(int(state.step), saved_step))
      writer = stack.enter_context(
        CheckpointWriter(
          self.folder, last_step=int(state.step), seed=self.arguments["seed"]
        )
      )
      batches = self._make_batches(int(state.step))
      loop = TrainingLoop(
        self.trainer,
        state,
        log=log,
        writer=writer,
        stop=self.stop,
        periods=self.periods,
        batch_size=self.arguments["batch_size"],
        dev=dev,
      )
      step = loop.run(batches)
    self._end(step, log.last_row)

  def _make_dev(self) -> DevMeasure | None:
    if self.arguments["dev_questions"] is None:
      return None
    from xqg_jax.dev_retrieval import DevRetrieval

    return DevRetrieval(
      self.trainer.model,
      questions=self.arguments["dev_questions"],
      passages=self.arguments["dev_passages"],
      mesh=self.trainer.mesh,
    )

  def _find_start(self, params: Any | None) -> tuple[TrainState, int | None]:
    """The state to go on from, and the step of its checkpoint, if any."""
    state = restore_state(self.folder, self.trainer)
    if state is not None:
      return state, int(state.step)
    if self.arguments["restore_optimizer"]:
      start = _open_start(self.arguments)
      return adopt_t5x_state(*start, self.trainer, params), None
    return self.trainer.init_state(params), None

  def _open_log(self, start_step: int, saved_step: int | None) -> MetricsLog:
    pending = (
      ()
      if saved_step is None
      else read_pending_metrics(self.folder, saved_step)
    )
    return MetricsLog(
      self.folder,
      start_step=start_step,
      train_steps=self.arguments["train_steps"],
      learning_rate=self.schedule,
      pending=pending,
    )

  def _make_batches(self, start_step: int) -> Iterator[dict[str, np.ndarray]]:
    part, num_parts = find_batch_part(self.trainer.mesh)
    names = ("mixture_or_task_name", "batch_size", "train_steps", "seed")
    return _make_batches(
      self.trainer.model,
      task_feature_lengths=self.lengths,
      start_step=start_step,
      process_index=part,
      process_count=num_parts,
      **{name: self.arguments[name] for name in names},
    )

  def _end(self, step: int, last_row: Mapping[str, float]) -> None:
    """Says that the run is finished, or that it was stopped."""
    is_finished = step == self.arguments["train_steps"]
    if _is_first() and is_finished:
      write_json(
        self.folder / MANIFEST_FILE,
        {
          "train_steps": step,
          "checkpoint": step_folder(self.folder, step).name,
          "last_metrics": last_row,
        },
      )
    _wait_for_others("run_has_ended")
    if not is_finished:
      raise Stopped(
        f"stopped by SIGTERM at step {step}; the same command goes on"
      )


def _is_first() -> bool:
  return jax.process_index() == 0


def _wait_for_others(what: str) -> None:
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(what)


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
    model.register_tasks(name, data_dir)
  if not ending:
    return
  tasks.register_generated_tasks(
    name=name,
    pairs=generated_pairs,
    tokenizer=model.tokenizer,
    config=model.encoder,
  )


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
  if generated_pairs is not None and not isinstance(model, DualEncoderModel):
    raise InputError(
      "generated queries train a dual encoder, and this is none",
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
  if not isinstance(model, DualEncoderModel):
    raise InputError(
      "dev retrieval measures a dual encoder, and this is none",
      mend="leave DEV_QUESTIONS and DEV_PASSAGES out",
    )
  if questions is None or passages is None:
    raise InputError(
      "only one of DEV_QUESTIONS and DEV_PASSAGES is set",
      mend="set both or neither",
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
