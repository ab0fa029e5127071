"""Training that is killed, stopped, and finds its checkpoints damaged."""

import json
import os
import pathlib
import random
import shutil
import signal
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests.helpers import tiny_training
from tests.helpers.tiny_collection import make_tokenizer
from tests.helpers.tiny_training import NUM_EXAMPLES, Children, train_small
from xqg_jax.checkpoints import list_steps, step_folder
from xqg_jax.errors import Stopped
from xqg_jax.io.buckets import BucketPath
from xqg_jax.io.sealed_folders import find_damage

RATES = ("examples_per_second", "tokens_per_second")
STEPS = 200


@pytest.fixture(scope="module")
def children(tmp_path_factory):
  folder = tmp_path_factory.mktemp("children")
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("PYTHONPATH", str(pathlib.Path(__file__).parents[2]))
    patch.setenv("TQDM_DISABLE", "1")
    children = Children(folder)
    child = children.start(tiny_training.train_in_child, "whole")
    child.join()
    assert child.exitcode == 0
    yield children


@pytest.fixture
def small_runs(monkeypatch):
  tiny_training.use_small_runs(monkeypatch.setattr)


def read_rows(model_dir):
  """The rows of metrics, without what depends on the clock."""
  with open(model_dir / "metrics.jsonl") as file:
    rows = [json.loads(line) for line in file]
  return [{k: v for k, v in row.items() if k not in RATES} for row in rows]


def read_arrays(model_dir, step):
  """All arrays of a checkpoint: parameters, moments, step."""
  folder = step_folder(model_dir, step).absolute()
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
    trees = [
      checkpointer.restore(folder / name) for name in ("params", "state")
    ]
  return {
    jax.tree_util.keystr(path): np.asarray(leaf)
    for path, leaf in jax.tree.leaves_with_path(trees)
  }


def assert_same_end(one, other, step=STEPS):
  assert list_steps(one) == list_steps(other)
  arrays, others = (read_arrays(folder, step) for folder in (one, other))
  assert arrays.keys() == others.keys()
  assert len(arrays) >= 7  # two parameters, their moments, counts
  for name, array in arrays.items():
    assert array.tobytes() == others[name].tobytes(), name
  assert read_rows(one) == read_rows(other)
  assert read_events(one) == read_events(other)
  leftovers = [p.name for p in other.iterdir() if "checkpoint_" in p.name]
  assert sorted(leftovers) == [f"checkpoint_{n}" for n in list_steps(other)]


def read_events(model_dir):
  """(step, loss) of what TensorBoard shows, in order, with any repetitions."""
  import tensorflow as tf

  (path,) = (model_dir / "tensorboard").iterdir()
  return [
    (event.step, value.simple_value)
    for event in tf.compat.v1.train.summary_iterator(str(path))
    for value in event.summary.value
    if value.tag == "loss"
  ]


def read_examples(children, model_dir):
  """(step, prompts) in the order in which they were consumed."""
  with open(children.folder / f"{model_dir}_examples.txt") as file:
    lines = [[int(number) for number in line.split()] for line in file]
  return [(step, prompts) for step, *prompts in lines]


@pytest.mark.slow
def test_twenty_kills_leave_no_trace(children):
  """The end is that of the unbroken run, and so is what each step saw."""
  rng = random.Random(0)
  for number in range(20):
    # Every fifth dies before or while it begins, the others at a random step
    # or in the middle of the save that is going on then.
    early = number % 5 == 0
    num_steps = None if early else rng.randrange(10)
    delay = rng.uniform(0, 2.0 if early else 0.05)
    child = children.start(
      tiny_training.train_and_die, "broken", num_steps, delay
    )
    child.join()
    assert child.exitcode == -signal.SIGKILL
  broken = children.folder / "broken"
  assert not (broken / "manifest.json").exists()
  child = children.start(tiny_training.train_in_child, "broken")
  child.join()
  assert child.exitcode == 0
  assert_same_end(children.folder / "whole", broken)
  check_examples(children)


def check_examples(children):
  unbroken = read_examples(children, "whole")
  assert [step for step, _ in unbroken] == list(range(1, STEPS + 1))
  seen = {}
  for step, prompts in read_examples(children, "broken"):
    # What is repeated after a kill is what was there before.
    assert seen.setdefault(step, prompts) == prompts
  assert list(seen.items()) == unbroken
  stream = [prompt for prompts in seen.values() for prompt in prompts]
  assert len(stream) == STEPS * tiny_training.BATCH_SIZE
  for start in range(0, len(stream), NUM_EXAMPLES):
    epoch = stream[start : start + NUM_EXAMPLES]
    expected = [n + 3 for n in range(NUM_EXAMPLES)][: len(epoch)]
    assert len(set(epoch)) == len(expected)
  assert len(read_examples(children, "broken")) > STEPS  # some were repeated


@pytest.mark.slow
def test_sigterm_saves_and_exits_with_0(children):
  make_tokenizer("t5").save(children.folder / "tokenizer")
  config = children.folder / "small.gin"
  config.write_text(
    "from __gin__ import dynamic_registration\n"
    "from tests.helpers import tiny_training\n"
    "MODEL = @tiny_training.SmallModel()\n"
    f"tiny_training.SmallModel.tokenizer = '{children.folder}/tokenizer'\n"
  )
  stopped = children.folder / "stopped"
  command = [
    "train",
    f"--gin_file={config}",
    f"--gin.MODEL_DIR={stopped}",
    "--gin.MIXTURE_OR_TASK_NAME=small_generation",
    f"--gin.TRAIN_STEPS={STEPS}",
    "--gin.BATCH_SIZE=4",
    "--gin.LEARNING_RATE=1e-2",
    "--gin.CHECKPOINT_PERIOD=5",
    "--gin.LOG_PERIOD=7",
  ]
  log = children.folder / "stopped_examples.txt"
  # The second SIGTERM finds more steps done than the first.
  for fewest in (23, 60):
    child = children.start(tiny_training.run_command, "stopped", command)
    while not log.exists() or len(log.read_text().splitlines()) < fewest:
      time.sleep(0.01)
    os.kill(child.pid, signal.SIGTERM)
    begin = time.monotonic()
    child.join(30)
    assert child.exitcode == 0
    assert time.monotonic() - begin < 30
    step = list_steps(stopped)[-1]
    assert fewest <= step < STEPS
    line = f"stopped by SIGTERM at step {step}; the same command goes on\n"
    told = (children.folder / "stopped_stderr.txt").read_text()
    assert told.endswith(line)
    assert not (stopped / "manifest.json").exists()
  child = children.start(tiny_training.run_command, "stopped", command)
  child.join()
  assert child.exitcode == 0
  seen = read_examples(children, "stopped")
  assert seen == read_examples(children, "whole")  # nothing was repeated
  assert_same_end(children.folder / "whole", stopped)


# ---------------------------------------------------------------- damage


def truncate(folder):
  path = max(folder.rglob("*"), key=lambda path: path.stat().st_size)
  os.truncate(path, path.stat().st_size // 2)


def flip_one_bit(folder):
  path = max(folder.rglob("*"), key=lambda path: path.stat().st_size)
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def lose_a_file(folder):
  next((folder / "params").rglob("manifest.ocdbt")).unlink()


def cut_the_manifest(folder):
  os.truncate(folder / "manifest.json", 40)


def truncate_an_old_layout(folder):
  (folder / "manifest.json").unlink()
  for path in folder.rglob("*"):
    if path.is_file():
      os.truncate(path, path.stat().st_size // 2)


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
  folder = tmp_path_factory.mktemp("short") / "run"
  with pytest.MonkeyPatch.context() as patch:
    tiny_training.use_small_runs(patch.setattr)
    return train_small(folder, train_steps=12)


def stop_after(monkeypatch, step):
  """Has the next run be asked to stop after so many steps."""
  monkeypatch.setattr(
    "xqg_jax.runtime.stop_request.StopRequest.reaches",
    lambda self, done: done == step,
  )


@pytest.fixture(scope="module")
def stopped_run(tmp_path_factory):
  """One that was stopped after 10 of 12 steps."""
  folder = tmp_path_factory.mktemp("stopped") / "run"
  with pytest.MonkeyPatch.context() as patch:
    tiny_training.use_small_runs(patch.setattr)
    stop_after(patch, 10)
    with pytest.raises(Stopped, match="stopped by SIGTERM at step 10"):
      train_small(folder, train_steps=12)
  return folder


@pytest.mark.usefixtures("small_runs")
@pytest.mark.parametrize(
  ("damage", "words"),
  [
    (truncate, "bytes of"),
    (flip_one_bit, "another SHA-256"),
    (lose_a_file, "is missing"),
    (cut_the_manifest, "manifest.json is not readable"),
    (truncate_an_old_layout, ""),
  ],
)
def test_damaged_checkpoint_gives_way_to_the_one_before(
  damage, words, tmp_path, short_run, stopped_run, capsys
):
  run = pathlib.Path(shutil.copytree(stopped_run, tmp_path / "run"))
  assert list_steps(run) == [5, 10]
  damage(step_folder(run, 10))
  capsys.readouterr()
  train_small(run, train_steps=12)
  told = [
    line for line in capsys.readouterr().err.splitlines() if "dam" in line
  ]
  assert len(told) == 1
  assert f"{step_folder(run, 10)} is damaged and removed" in told[0]
  assert words in told[0]
  assert_same_end(short_run, run, step=12)
  assert [find_damage(step_folder(run, n)) for n in (10, 12)] == [None, None]


@pytest.mark.usefixtures("small_runs")
def test_stopped_before_the_first_step(tmp_path, short_run, monkeypatch):
  with monkeypatch.context() as patch:
    stop_after(patch, 0)
    run = tmp_path / "run"
    with pytest.raises(Stopped, match="at step 0"):
      train_small(run, train_steps=12)
  assert list_steps(run) == []
  assert_same_end(short_run, train_small(run, train_steps=12), step=12)


# -------------------------------------------------------------------- buckets


class _Killed(Exception):
  pass


def _die_in_the_middle(monkeypatch, num_files):
  """The process ends after so many files of a checkpoint are in the bucket."""
  upload, left = BucketPath.upload, [num_files]

  def upload_some(path, source):
    if source.is_file() and "checkpoint_10" in str(path):
      if not left[0]:
        raise _Killed
      left[0] -= 1
    upload(path, source)

  monkeypatch.setattr(BucketPath, "upload", upload_some)


@pytest.mark.parametrize("num_files", [0, 2, 9])
def test_a_run_in_a_bucket_goes_on(
  num_files, small_runs, monkeypatch, tmp_path
):
  """Killed while it copies a checkpoint, it ends as an unbroken local run."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  bucket = BucketPath(f"memory://{tmp_path.name}-{num_files}/run")
  train_small(tmp_path / "whole", train_steps=20)
  with monkeypatch.context() as patch:
    _die_in_the_middle(patch, num_files)
    with pytest.raises(_Killed):
      train_small(bucket, train_steps=20)
  assert list_steps(bucket) == [5]
  assert not (bucket / ".lock").exists()  # given up by the exception
  train_small(bucket, train_steps=20)
  bucket.download(tmp_path / "found")
  assert_same_end(tmp_path / "whole", tmp_path / "found", step=20)
  assert json.loads((bucket / "manifest.json").read_text())["train_steps"] == 20


def test_a_damaged_checkpoint_in_a_bucket_is_removed(
  small_runs, monkeypatch, tmp_path, capsys
):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  bucket = BucketPath(f"memory://{tmp_path.name}/damaged")
  train_small(bucket, train_steps=10)
  (bucket / "manifest.json").unlink()
  largest = max(
    (bucket / "checkpoint_10" / "params").rglob("*"),
    key=lambda path: len(path.read_bytes()),
  )
  content = bytearray(largest.read_bytes())
  content[-1] ^= 1
  largest.write_bytes(bytes(content))
  train_small(bucket, train_steps=10)
  assert "checkpoint_10 is damaged and removed" in capsys.readouterr().err
  assert find_damage(bucket / "checkpoint_10") is None
