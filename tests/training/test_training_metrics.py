"""Metrics: rows, rates, TensorBoard, and what is not finite."""

import itertools
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import tiny_training
from tests.helpers.tiny_collection import make_tokenizer
from tests.helpers.tiny_training import SmallModel, train_small
from xqg_jax.checkpoints import list_steps, load_params, step_folder
from xqg_jax.errors import InputError, Stopped
from xqg_jax.runtime.chips import CHIPS
from xqg_jax.runtime.program_costs import count_flops
from xqg_jax.runtime.sharding import make_mesh
from xqg_jax.stages import train
from xqg_jax.training import dev_retrieval, throughput
from xqg_jax.training.metrics import EventFile
from xqg_jax.training.throughput import (
  FlopsCounter,
  Throughput,
  find_peak_flops,
)


@pytest.fixture
def small_runs(monkeypatch):
  tiny_training.use_small_runs(monkeypatch.setattr)


def read_rows(model_dir):
  with open(model_dir / "metrics.jsonl") as file:
    return [json.loads(line) for line in file]


def batch_of_step(step):
  batches = tiny_training.make_batches(
    None, start_step=step - 1, batch_size=tiny_training.BATCH_SIZE, seed=0
  )
  return next(batches)


@pytest.mark.usefixtures("small_runs")
def test_rows_have_means_rates_and_utilisation(tmp_path, monkeypatch):
  monkeypatch.setitem(CHIPS, "cpu", CHIPS["TPU v4"])
  settings = {
    "train_steps": 7,
    "log_period": 3,
    "schedule": "linear",
    "learning_rate": 0.7,
  }
  rows = read_rows(train_small(tmp_path / "means", **settings))
  assert [row["step"] for row in rows] == [3, 6, 7]
  # The rate of step n is that after n - 1 steps.
  assert [row["learning_rate"] for row in rows] == [
    pytest.approx(rate) for rate in (0.5, 0.2, 0.1)
  ]
  for row in rows:
    assert {"loss", "accuracy", "gradient_norm"} <= row.keys()
    # 12 tokens of a prompt and 4 of a question, none of them padding.
    assert row["tokens_per_second"] == pytest.approx(
      16 * row["examples_per_second"]
    )
    # Four examples a step, 3 x 2 x 8 x 200 operations each.
    flops = 9600 * row["examples_per_second"]
    assert row["mfu"] == pytest.approx(flops / 275e12)
  single = train_small(tmp_path / "single", **(settings | {"log_period": 1}))
  losses = [row["loss"] for row in read_rows(single)]
  assert [row["loss"] for row in rows] == [
    pytest.approx(value)
    for value in (np.mean(losses[:3]), np.mean(losses[3:6]), losses[6])
  ]


# ------------------------------------------------------------- not finite


@pytest.mark.usefixtures("small_runs")
def test_batch_of_a_loss_that_is_not_finite_is_kept(tmp_path):
  run = tmp_path / "run"
  with pytest.raises(InputError) as raised:
    train_small(run, learning_rate=1e38, gradient_clip=None)
  message = str(raised.value)
  # The first step's parameters are huge, the second one's loss is not a number.
  path = run / "failed_batch_step_2.npz"
  assert " at step 2; training has stopped" in message
  assert f"the batch of that step is kept in {path}" in message
  with np.load(path) as kept:
    expected = batch_of_step(2)
    assert kept.keys() == expected.keys()
    for name, array in expected.items():
      np.testing.assert_array_equal(kept[name], array)
  assert list_steps(run) == []


@pytest.mark.usefixtures("small_runs")
def test_parameters_that_are_not_finite_are_never_kept(tmp_path):
  """Its last loss is finite: only the parameters themselves tell."""
  run = tmp_path / "run"
  settings = {"train_steps": 4, "checkpoint_period": 1, "gradient_clip": None}
  # From step 3 on the learning rate is infinite.
  with pytest.MonkeyPatch.context() as patch:
    make = train.make_schedule
    patch.setattr(
      train,
      "make_schedule",
      lambda **arguments: (
        lambda step: jnp.where(step < 2, make(**arguments)(step), jnp.inf)
      ),
    )
    with pytest.raises(InputError, match=r"parameter \w+ is nan at step 3; "):
      train_small(run, **settings)
  assert list_steps(run) == [1, 2]
  for step in (1, 2):
    load_params(step_folder(run, step))  # refuses NaN
  with np.load(run / "failed_batch_step_3.npz") as kept:
    np.testing.assert_array_equal(
      kept["encoder_input_tokens"], batch_of_step(3)["encoder_input_tokens"]
    )


# ------------------------------------------------------------- throughput


def test_clock_stands_while_something_else_is_done(monkeypatch):
  clock = itertools.count(0, 10)
  monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
  rates = Throughput(peak_flops=1000.0)
  rates.count(examples=99, tokens=99, flops=99.0)  # compiling: not counted
  assert rates.take_rates() == {}
  rates.start()
  rates.count(examples=4, tokens=60, flops=700.0)
  rates.stop()  # after 10 s
  rates.start()
  rates.count(examples=4, tokens=40, flops=700.0)
  expected = {"examples_per_second": 0.4, "tokens_per_second": 5.0, "mfu": 0.07}
  assert rates.take_rates() == pytest.approx(expected)  # after 20 s
  rates.count(examples=1, tokens=1, flops=None)
  assert rates.take_rates()["examples_per_second"] == 0.1


def test_peak_is_that_of_all_devices(monkeypatch):
  assert find_peak_flops(make_mesh(2)) is None  # a CPU
  monkeypatch.setitem(CHIPS, "cpu", CHIPS["TPU v5 lite"])
  assert find_peak_flops(make_mesh(2)) == 8 * 197e12


def test_flops_are_counted_once_a_shape(monkeypatch):
  model = SmallModel(tokenizer=make_tokenizer("t5"))
  params = model.init(jax.random.key(0))
  counter = FlopsCounter(model)
  counts = []
  monkeypatch.setattr(
    throughput,
    "count_flops",
    lambda jaxpr: counts.append(1) or count_flops(jaxpr),
  )
  for rows, expected in ((4, 38400.0), (8, 76800.0), (4, 38400.0)):
    batch = {k: v[:rows] for k, v in tiny_training.make_examples().items()}
    assert counter.count(params, batch) == expected
  assert len(counts) == 2


def test_backward_pass_takes_twice_the_forward_pass():
  """As the traced gradient has it, where nothing is computed twice."""
  model = SmallModel(tokenizer=make_tokenizer("t5"))
  params = model.init(jax.random.key(0))
  batch = tiny_training.make_examples()
  whole = jax.make_jaxpr(jax.value_and_grad(model.loss, has_aux=True))(
    params, batch, jax.random.key(0)
  )
  assert count_flops(whole) == FlopsCounter(model).count(params, batch)


# ------------------------------------------------------------ TensorBoard


def read_events(folder):
  import tensorflow as tf

  return [
    (event.step, event.wall_time, value.tag, value.simple_value)
    for path in sorted(folder.iterdir())
    for event in tf.compat.v1.train.summary_iterator(str(path))
    for value in event.summary.value
  ]


def test_events_after_the_restored_step_are_dropped(tmp_path):
  first = EventFile(tmp_path)
  for step in (1, 2, 3):
    first.write(step, {"loss": step / 2})
  first.close()
  before = read_events(tmp_path)
  (path,) = tmp_path.iterdir()
  with open(path, "ab") as file:
    file.write(b"\x18\x00\x00")  # cut off by a kill
  second = EventFile(tmp_path, start_step=2)
  second.write(3, {"loss": 9.0, "mfu": 0.5})
  second.close()
  found = read_events(tmp_path)
  assert found[:2] == before[:2]  # with their times
  assert [(s, tag, value) for s, _, tag, value in found[2:]] == [
    (3, "loss", 9.0),
    (3, "mfu", 0.5),
  ]
  assert len(list(tmp_path.iterdir())) == 1


# ---------------------------------------------------------- dev retrieval


class StubRetrieval:
  """Measures the first number of the table."""

  def __init__(self, model, *, questions, passages, mesh):
    assert (questions, passages) == ("q.jsonl", "p.tsv")

  def measure(self, params):
    return {"dev_R@2kt": float(params["table"][0, 0])}


@pytest.mark.usefixtures("small_runs")
def test_dev_values_stand_in_the_rows_of_their_steps(tmp_path, monkeypatch):
  monkeypatch.setattr(dev_retrieval, "DevRetrieval", StubRetrieval)
  monkeypatch.setattr(SmallModel, "is_encoder", True)
  settings = {
    "train_steps": 8,
    "log_period": 3,
    "dev_questions": "q.jsonl",
    "dev_passages": "p.tsv",
    "dev_period": 4,
    "checkpoint_period": 3,
  }
  with monkeypatch.context() as patch:
    patch.setattr(
      "xqg_jax.runtime.stop_request.StopRequest.reaches",
      lambda self, step: step == 5,
    )
    with pytest.raises(Stopped):
      train_small(tmp_path, **settings)
  stopped = read_rows(tmp_path)
  rows = read_rows(train_small(tmp_path, **settings))
  assert rows[:2] == stopped
  assert [row["step"] for row in rows] == [3, 4, 6, 8]
  assert ["dev_R@2kt" in row for row in rows] == [False, True, False, True]
  params = load_params(step_folder(tmp_path, 8))
  assert rows[-1]["dev_R@2kt"] == float(params["table"][0, 0])


@pytest.mark.usefixtures("small_runs")
def test_dev_retrieval_is_for_dual_encoders(tmp_path):
  with pytest.raises(InputError, match="dev retrieval measures dual encoders"):
    train_small(tmp_path / "a", dev_questions="q", dev_passages="p")
  assert list(tmp_path.iterdir()) == []
