"""Several processes by `jax.distributed`: joined, refused, equal to one."""

import dataclasses
import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest

from tests.helpers.tiny_collection import write_collection
from tests.helpers.tiny_models import MODELS
from xqg_jax.checkpoints import load_dual_encoder, save_params
from xqg_jax.cli import main
from xqg_jax.errors import InputError
from xqg_jax.runtime import processes
from xqg_jax.runtime.sharding import make_mesh
from xqg_jax.stages import train

HERE = pathlib.Path(__file__).parent
TINY = {
  "BertConfig.vocab_size": 201,  # not divisible by NUM_PARTITIONS
  "BertConfig.hidden_size": 16,
  "BertConfig.num_hidden_layers": 1,
  "BertConfig.num_attention_heads": 2,
  "BertConfig.intermediate_size": 32,
  "BertConfig.max_position_embeddings": 32,
  "DualEncoderConfig.query_length": 12,
  "DualEncoderConfig.passage_length": 16,
  "DualEncoderModel.num_negatives": 2,
  "DualEncoderModel.dropout_rate": 0.1,
  "RankingObjective.temperature": 1.0,
  "MIXTURE_OR_TASK_NAME": "small_dual_encoder",
  "TRAIN_STEPS": 5,
  "CHECKPOINT_PERIOD": 2,
  "LOG_PERIOD": 1,
  "BATCH_SIZE": 8,
  "NUM_PARTITIONS": 2,
}


def _command(folder, model_dir):
  settings = {
    **TINY,
    "DATA_DIR": folder,
    "TOKENIZER_DIR": folder / "start",
    "INITIAL_CHECKPOINT_PATH": folder / "start",
    "MODEL_DIR": folder / model_dir,
  }
  return [
    "train",
    "--gin_file=models/bert_tiny.gin",
    "--gin_file=sharding/fsdp.gin",
    *(f"--gin.{name}={value}" for name, value in settings.items()),
  ]


def make_optimizer(**unused):
  """Gradient descent: AdamW's first steps blow tiny differences up."""
  return optax.sgd(0.1, momentum=0.5)


# Trains until both processes break off at a step, and then to the end.
SCRIPT = """
import sys
import test_distributed
from xqg_jax.cli.main import main
from xqg_jax.stages import train
from xqg_jax.training import loop

train.make_optimizer = test_distributed.make_optimizer

class Interruption(Exception):
  pass

def interrupted(self, step, batch):
  if step == 4:
    raise Interruption
  take(self, step, batch)

take = loop.TrainingLoop._take_step
loop.TrainingLoop._take_step = interrupted
command, flags = sys.argv[1:-3], sys.argv[-3:]
try:
  main([*command, *flags])
except Interruption:
  loop.TrainingLoop._take_step = take
  sys.exit(main(command))
"""


def _find_port():
  with socket.socket() as probe:
    probe.bind(("", 0))
    return probe.getsockname()[1]


def _start(command, programs, port, number):
  environment = os.environ | {
    "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])]),
    "TQDM_DISABLE": "1",
    # The second part finds the programs of the first.
    "JAX_COMPILATION_CACHE_DIR": str(programs),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
  }
  flags = (
    f"--coordinator_address=localhost:{port}",
    "--num_processes=2",
    f"--process_id={number}",
  )
  return subprocess.Popen(
    [sys.executable, "-c", SCRIPT, *command, *flags],
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def _losses(model_dir):
  with open(model_dir / "metrics.jsonl") as file:
    return [json.loads(line)["loss"] for line in file]


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compiler")
def test_two_processes_train_as_one_does(tmp_path, monkeypatch):
  """Two devices each against a single one, with an interruption."""
  mesh = make_mesh(devices=jax.devices()[:1])
  monkeypatch.setattr(train, "make_mesh", lambda num_partitions: mesh)
  monkeypatch.setattr(train, "make_optimizer", make_optimizer)
  write_collection(tmp_path)
  model, _ = MODELS["dual_encoder"]().complete(None)
  model = dataclasses.replace(
    model, encoder=dataclasses.replace(model.encoder, normalize=True)
  )
  model.save_files(tmp_path / "start")
  save_params(tmp_path / "start", 0, jax.jit(model.init)(jax.random.key(0)))
  port = _find_port()
  both = [
    _start(_command(tmp_path, "two"), tmp_path / "programs", port, number)
    for number in range(2)
  ]
  try:
    assert main.main(_command(tmp_path, "one")) == 0
    outputs = [process.communicate(timeout=300)[0] for process in both]
  finally:
    for process in both:
      process.kill()
  assert [process.returncode for process in both] == [0, 0], outputs
  one, two = tmp_path / "one", tmp_path / "two"
  assert {path.name for path in one.iterdir()} == {
    path.name for path in two.iterdir()
  }
  assert len(_losses(two)) == 5
  np.testing.assert_allclose(_losses(two), _losses(one), atol=1e-6)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
    load_dual_encoder(two).params,
    load_dual_encoder(one).params,
  )


@pytest.mark.parametrize(
  ("flags", "line"),
  [
    (["--num_processes=2", "--process_id=0"], "missing: --coordinator_address"),
    (["a:1", "2", "2"], "--process_id=2 is not below --num_processes=2"),
    (["a:1", "two", "0"], "--num_processes=two is no number; give all of"),
    (["a", "2", "0"], "--coordinator_address=a: no host and port"),
    (["a:99999", "2", "0"], "--coordinator_address=a:99999: no host and port"),
    (
      ["a.invalid:1", "2", "1"],
      "--coordinator_address=a.invalid:1: no such ho",
    ),
  ],
)
def test_bad_flags_are_one_line(flags, line, capsys):
  names = ("coordinator_address", "num_processes", "process_id")
  if not flags[0].startswith("--"):
    pairs = zip(names, flags, strict=True)
    flags = [f"--{name}={value}" for name, value in pairs]
  assert main.main(["train", *flags]) == 2
  error = capsys.readouterr().err
  assert error.startswith(f"xqg: error: {line}")
  assert error.count("\n") == 1


def test_where_no_cluster_is_found_the_flags_are_named(monkeypatch, capsys):
  def initialize(**_):
    raise ValueError("coordinator_address should be defined.")

  # JAX's own refuses, since devices are in use here already.
  monkeypatch.setattr(jax.distributed, "initialize", initialize)
  assert main.main(["train", "--distributed"]) == 2
  assert (
    "no TPU pod, SLURM, Open MPI or Kubernetes job is found here; give"
    in (capsys.readouterr().err)
  )


def test_taken_port_is_found():
  with socket.socket() as taken:
    taken.bind(("", 0))
    taken.listen()
    address = f"localhost:{taken.getsockname()[1]}"
    with pytest.raises(InputError, match="something else listens"):
      processes.join_processes(
        coordinator_address=address, num_processes=2, process_id=0
      )


def test_other_stages_take_no_such_flags(capsys):
  assert main.main(["index", "--distributed"]) == 2
  assert "`xqg index` runs in one process" in capsys.readouterr().err


def test_one_host_of_a_pod_is_not_taken_for_all(monkeypatch, capsys):
  monkeypatch.setattr(jax, "process_count", lambda: 4)
  assert main.main(["train"]) == 2
  assert "this host is one of 4 that compute together; add --distributed" in (
    capsys.readouterr().err
  )
