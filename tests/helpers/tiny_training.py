"""A model that compiles in a moment, and runs of it that may be killed."""

import dataclasses
import itertools
import multiprocessing
import os
import pathlib
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.helpers.tiny_collection import make_tokenizer
from xqg_jax.cli import main
from xqg_jax.models.t5.network import T5Config
from xqg_jax.runtime.sharding import make_mesh
from xqg_jax.seqio_data import batches
from xqg_jax.stages import train
from xqg_jax.training import loop, run
from xqg_jax.training.query_generator_model import QueryGeneratorModel

SIZES = (4, 12)
NUM_EXAMPLES = sum(SIZES)
BATCH_SIZE = 4
CONFIG = T5Config(
  vocab_size=200,
  emb_dim=8,
  num_heads=1,
  head_dim=8,
  mlp_dim=8,
  num_encoder_layers=1,
  num_decoder_layers=1,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmallModel(QueryGeneratorModel):
  """Guesses the first tokens of a question by the mean of its prompt's."""

  config: T5Config | None = CONFIG

  def init(self, rng: jax.Array) -> dict[str, Any]:
    keys = jax.random.split(rng)
    shapes = {"kernel": (8, 200), "table": (200, 8)}
    return {
      name: 0.1 * jax.random.normal(key, shape)
      for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }

  def param_axes(self) -> dict[str, Any]:
    return {"kernel": ("embed", "vocab"), "table": ("vocab", "embed")}

  def loss(self, params, batch, rng):
    hidden = params["table"][batch["encoder_input_tokens"]].mean(axis=1)
    kept = jax.random.bernoulli(rng, 0.9, hidden.shape)  # dropout
    logits = (hidden * kept) @ params["kernel"]
    targets = batch["decoder_target_tokens"][:, 0]
    scores = jax.nn.log_softmax(logits)
    is_right = logits.argmax(axis=1) == targets
    loss = -jnp.take_along_axis(scores, targets[:, None], axis=1).mean()
    return loss, {"accuracy": is_right.astype(jnp.float32).mean()}


def make_examples() -> dict[str, np.ndarray]:
  """Two tasks' worth of examples, the first token of each unlike all others."""
  rng = np.random.default_rng(0)
  prompts = rng.integers(3, 200, (NUM_EXAMPLES, 12)).astype(np.int32)
  prompts[:, 0] = np.arange(NUM_EXAMPLES) + 3
  targets = rng.integers(3, 200, (NUM_EXAMPLES, 4)).astype(np.int32)
  return {
    "encoder_input_tokens": prompts,
    "decoder_input_tokens": np.roll(targets, 1, axis=1),
    "decoder_target_tokens": targets,
    "decoder_loss_weights": np.ones_like(targets),
  }


def make_batches(
  model: Any, *, start_step: int, batch_size: int, seed: int, **unused: Any
) -> Any:
  """Stands for `training._make_batches`, without SeqIO's slow start."""
  examples = make_examples()
  parts = [
    {name: array[rows] for name, array in examples.items()}
    for rows in (slice(SIZES[0]), slice(SIZES[0], None))
  ]
  return batches._draw_batches(parts, SIZES, batch_size, seed, start_step, 1)


def use_small_runs(set_attribute: Callable[..., None] = setattr) -> None:
  """Has `train` use one device and `make_batches`."""
  mesh = make_mesh(devices=jax.devices()[:1])
  set_attribute(train, "make_mesh", lambda num_partitions: mesh)
  set_attribute(run, "_make_batches", make_batches)
  # `make_examples` needs no task.
  set_attribute(train, "_list_languages", lambda name: None)


def train_small(model_dir: Any, **arguments: Any) -> pathlib.Path:
  """Trains; `arguments` of `train` replace what is set here."""
  return train.train(
    **{
      "model_dir": str(model_dir),
      "model": SmallModel(tokenizer=make_tokenizer("t5")),
      "mixture_or_task_name": "small_generation",
      "train_steps": 200,
      "batch_size": BATCH_SIZE,
      "learning_rate": 1e-2,
      "checkpoint_period": 5,
      "log_period": 7,
      **arguments,
    }
  )


# ------------------------------------------- processes of their own, to kill


class Children:
  """Starts processes that have their imports behind them.

  Compiled programs are kept in the folder, so that each is compiled once.
  """

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    self._context = multiprocessing.get_context("forkserver")
    self._context.set_forkserver_preload(
      [
        "tensorflow",
        "seqio",
        "orbax.checkpoint",
        "gin",
        "tests.helpers.tiny_training",
      ]
    )

  def start(self, function: Callable[..., None], *arguments: Any) -> Any:
    """Starts `function(folder, *arguments)` in a process."""
    child = self._context.Process(
      target=function, args=(self.folder, *arguments)
    )
    child.start()
    return child


def _set_up(folder: pathlib.Path, model_dir: str) -> None:
  jax.config.update("jax_compilation_cache_dir", str(folder / "programs"))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
  use_small_runs()
  log_examples(folder / f"{model_dir}_examples.txt")


def train_in_child(folder: pathlib.Path, model_dir: str) -> None:
  """Trains to the end, and notes what it saw."""
  _set_up(folder, model_dir)
  train_small(folder / model_dir)


def train_and_die(
  folder: pathlib.Path, model_dir: str, num_steps: int | None, delay: float
) -> None:
  """Trains until SIGKILL comes, from a thread that looks at nothing.

  Args:
    folder: the parent of all.
    model_dir: name in it.
    num_steps: the clock begins to run after so many steps; None: at once.
    delay: seconds on the clock.
  """

  def kill_later() -> None:
    timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL))
    timer.daemon = True
    timer.start()

  if num_steps is None:
    kill_later()
  _set_up(folder, model_dir)
  take = loop.TrainingLoop._take_step
  steps = itertools.count()

  def counted(*arguments: Any) -> None:
    if next(steps) == num_steps:
      kill_later()
    take(*arguments)

  loop.TrainingLoop._take_step = counted
  train_small(folder / model_dir)


def run_command(
  folder: pathlib.Path, model_dir: str, arguments: list[str]
) -> None:
  """Exits as `xqg` with these arguments would, with its errors in a file."""
  _set_up(folder, model_dir)
  with open(folder / f"{model_dir}_stderr.txt", "w") as sys.stderr:
    sys.exit(main.main(arguments))


def log_examples(path: pathlib.Path) -> None:
  """Has the loop write the step and the prompts of each batch it consumes."""
  take = loop.TrainingLoop._take_step

  def logged(self: Any, step: int, batch: dict[str, np.ndarray]) -> None:
    prompts = batch["encoder_input_tokens"][:, 0]
    with open(path, "a") as file:
      file.write(" ".join(map(str, [step, *prompts])) + "\n")
    take(self, step, batch)

  loop.TrainingLoop._take_step = logged
