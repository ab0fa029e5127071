"""Training run: its folder, manifest, batches and checkpoints."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import jax
import numpy as np
import optax

from xqg_jax.checkpoints import step_folder
from xqg_jax.checkpoints.t5x.layouts import T5xCheckpoint
from xqg_jax.errors import InputError, Stopped
from xqg_jax.io.buckets import BucketPath
from xqg_jax.io.claims import MANIFEST_FILE, lock_folder
from xqg_jax.io.files import write_json
from xqg_jax.io.paths import Path, to_path
from xqg_jax.io.shared_claims import claim_in_turn
from xqg_jax.runtime.processes import is_first_process, wait_for_all
from xqg_jax.runtime.sharding import find_batch_part
from xqg_jax.runtime.stop_request import StopRequest
from xqg_jax.training.checkpoints import (
  CheckpointWriter,
  read_pending_metrics,
  restore_state,
)
from xqg_jax.training.loop import DevMeasure, Periods, TrainingLoop
from xqg_jax.training.metrics import MetricsLog
from xqg_jax.training.state import (
  Trainer,
  TrainState,
  adopt_t5x_state,
  open_t5x_start,
)
from xqg_jax.training.trainable import (
  Lengths,
  TrainableModel,
  completed_tokenizer,
)

if TYPE_CHECKING:
  from xqg_jax.training.dual_encoder_model import DualEncoderModel

# Arguments that may change when a run goes on; the rest decides its bytes.
_FREE_ARGUMENTS = (
  "model_dir",
  "log_period",
  "checkpoint_period",
  "dev_questions",
  "dev_passages",
  "dev_period",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingRun:
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
  def folder(self) -> Path:
    """MODEL_DIR."""
    return to_path(self.arguments["model_dir"])

  @property
  def is_finished(self) -> bool:
    """Whether all steps have been taken, by this call or one before."""
    return (self.folder / MANIFEST_FILE).exists()

  def claim_folder(self) -> None:
    """Makes the folder this run's own; the first process begins.

    Raises:
      InputError: it holds another run, or several processes cannot share it.
    """
    if isinstance(self.folder, BucketPath) and jax.process_count() > 1:
      raise InputError(
        "several processes cannot train into a bucket",
        where=self.folder,
        mend="give a MODEL_DIR on a disk that they share",
      )
    deciding = {
      k: v for k, v in self.arguments.items() if k not in _FREE_ARGUMENTS
    }
    generated = deciding["generated_pairs"]
    claim_in_turn(
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

  def go_on(self, params: Any | None, languages: Sequence[str] | None) -> None:
    """Trains from the newest checkpoint, or from `params`, to the end.

    Args:
      params: the parameters to start from; None: random ones.
      languages: of the task, noted beside the checkpoints.
    """
    with contextlib.ExitStack() as stack:
      if is_first_process():
        stack.enter_context(lock_folder(self.folder))
        self.trainer.model.save_files(self.folder, languages)
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
    from xqg_jax.training.dev_retrieval import DevRetrieval

    return DevRetrieval(
      cast("DualEncoderModel", self.trainer.model),  # as `train` has checked
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
      start = open_start(self.arguments)
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
    if is_first_process() and is_finished:
      write_json(
        self.folder / MANIFEST_FILE,
        {
          "train_steps": step,
          "checkpoint": step_folder(self.folder, step).name,
          "last_metrics": last_row,
        },
      )
    wait_for_all(f"end {self.folder}")
    if not is_finished:
      raise Stopped(
        f"stopped by SIGTERM at step {step}; the same command goes on"
      )


def open_start(arguments: Mapping[str, Any]) -> tuple[T5xCheckpoint, int]:
  """Opens the T5X checkpoint to go on from, and its step."""
  return open_t5x_start(
    arguments["initial_checkpoint_path"],
    train_steps=arguments["train_steps"],
    optimizer=arguments["optimizer"],
  )


def _make_batches(
  model: TrainableModel, **arguments: Any
) -> Iterator[dict[str, np.ndarray]]:
  """The batches; SeqIO and TensorFlow are imported no earlier than here."""
  from xqg_jax.seqio_data.batches import check_vocabulary, make_batches

  tokenizer = completed_tokenizer(model.tokenizer)
  check_vocabulary(arguments["mixture_or_task_name"], tokenizer)
  return make_batches(
    feature_converter=model.make_feature_converter(),
    num_draws=model.num_draws,
    **arguments,
  )
