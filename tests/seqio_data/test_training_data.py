"""Batches of a task: every example once, the same after a restart."""

import collections
import hashlib
import logging
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import seqio

import xqg_jax.tasks as tasks
from tests.helpers.tiny_collection import QUESTIONS, make_pairs, make_tokenizer
from tests.helpers.tiny_tasks import (
  DUAL_LENGTHS,
  ENCODER,
  GENERATION_LENGTHS,
  register_tiny_tasks,
)
from xqg_jax.data.passages import Passage
from xqg_jax.data.training_pairs import TrainingPair, write_training_pairs
from xqg_jax.errors import InputError
from xqg_jax.seqio_data.batches import make_batches
from xqg_jax.seqio_data.epochs import EpochSampler
from xqg_jax.seqio_data.feature_converter import DualEncoderFeatureConverter


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
  return register_tiny_tasks(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def no_logs():
  """What pytest keeps of logs holds on to data sets, which end slowly."""
  logging.disable()
  yield
  logging.disable(logging.NOTSET)


def _batches(count, **kwargs):
  batches = make_batches(
    **{
      "mixture_or_task_name": "tiny_generation",
      "task_feature_lengths": GENERATION_LENGTHS,
      "feature_converter": seqio.EncDecFeatureConverter(pack=False),
      "batch_size": 4,
      "seed": 5,
      **kwargs,
    }
  )
  return [next(batches) for _ in range(count)]


def _dual(**kwargs):
  return {
    "mixture_or_task_name": "tiny_dual_encoder",
    "task_feature_lengths": DUAL_LENGTHS,
    "feature_converter": DualEncoderFeatureConverter(0),
    **kwargs,
  }


def test_an_epoch_has_each_example_once_and_epochs_differ():
  rows = [
    tuple(row)
    for batch in _batches(8)
    for row in batch["decoder_target_tokens"].tolist()
  ]
  assert len(set(rows[:16])) == 16
  assert set(rows[:16]) == set(rows[16:])
  assert rows[:16] != rows[16:]


@pytest.mark.parametrize("in_memory", [0, 1000])
@pytest.mark.parametrize("task", [{}, _dual(num_draws=4)])
def test_batches_from_a_later_step_equal_the_unbroken_ones(in_memory, task):
  task = {**task, "max_examples_in_memory": in_memory}
  unbroken = _batches(9, **task)
  later = _batches(3, start_step=6, **task)
  for a, b in zip(unbroken[6:], later, strict=True):
    assert a.keys() == b.keys()
    for key in a:
      np.testing.assert_array_equal(a[key], b[key])


def _digest(batches):
  """A digest of all bytes of the batches, in order."""
  digest = hashlib.sha256()
  for batch in batches:
    for key in sorted(batch):
      digest.update(np.ascontiguousarray(batch[key]).tobytes())
  return digest.hexdigest()


TEN_THOUSAND = [
  # A mixture that is streamed, and tasks that are kept in memory; the last
  # one's examples are all different.
  {"batch_size": 500, "max_examples_in_memory": 0},
  {"batch_size": 500, "mixture_or_task_name": "tiny_generation_fi"},
  {
    **_dual(mixture_or_task_name="big_dual_encoder", batch_size=500),
    "task_feature_lengths": {
      "query": 32,
      "passage": 32,
      "negative_passages": (1, 32),
    },
  },
]


def _register_big_task(folder):
  """The task `big_dual_encoder` over 10,000 pairs, all different."""
  path = folder / "train_pairs.jsonl"
  if not path.exists():
    with open(path, "w", encoding="utf-8") as file:
      write_training_pairs(file, map(_make_pair, range(10_000)))
  tasks.register_local_tasks(
    name="big",
    data_dir=folder,
    encoder_tokenizer=make_tokenizer("bert"),
    encoder_config=ENCODER,
  )


def _make_pair(number):
  language = list(QUESTIONS)[number % 3]
  # The tiny tokenizers know these letters.
  name = "".join("abcdefgh"[int(digit)] for digit in f"{number:05o}")
  passage = Passage(f"p{number}", f"The {name} flows north.", name)
  lake = Passage(f"n{number}", f"The lakes of {name}.", "Lake")
  return TrainingPair(
    query_id=str(number),
    query=QUESTIONS[language].format(name),
    language=language,
    positives=(passage,),
    negatives=(lake,),
  )


@pytest.mark.slow
def test_ten_thousand_examples_are_the_same_in_another_process(
  tmp_path, folder
):
  _register_big_task(tmp_path)
  expected = []
  for arguments in TEN_THOUSAND:
    unbroken = _batches(20, **arguments)
    expected.append(_digest(unbroken))
    # A run that was stopped in the middle and started again.
    rest = _batches(10, start_step=10, **arguments)
    assert _digest(rest) == _digest(unbroken[10:])
  # The last task's batches are one epoch.
  rows = {row.tobytes() for batch in unbroken for row in batch["query_tokens"]}
  assert len(rows) == 10_000
  here = [str(pathlib.Path(__file__).parents[i]) for i in (0, 2)]
  code = f"""
import sys
sys.path[:0] = {here!r}
import pathlib
from test_training_data import (
  TEN_THOUSAND, _batches, _digest, _register_big_task
)
from tests.helpers.tiny_tasks import register_tiny_tasks
register_tiny_tasks(pathlib.Path({str(folder)!r}))
_register_big_task(pathlib.Path({str(tmp_path)!r}))
print(*(_digest(_batches(20, **arguments)) for arguments in TEN_THOUSAND))
"""
  result = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert result.stdout.split()[-3:] == expected


@pytest.mark.parametrize("num_hosts", [1, 3])
def test_hosts_share_out_every_example_once(num_hosts):
  seen = []
  for task in seqio.get_mixture_or_task("tiny_generation").tasks:
    for index in range(num_hosts):
      dataset = task.get_dataset(
        GENERATION_LENGTHS,
        shuffle=True,
        seed=1,
        num_epochs=1,
        shard_info=seqio.ShardInfo(index, num_hosts),
      )
      seen += [e["targets_pretokenized"] for e in dataset.as_numpy_iterator()]
  assert sorted(seen) == sorted(pair.query.encode() for pair in make_pairs())


def _part_of_each(count, num_processes, **kwargs):
  """The batches of each process."""
  return [
    _batches(count, process_index=index, process_count=num_processes, **kwargs)
    for index in range(num_processes)
  ]


def test_parts_of_processes_make_the_batches_of_one():
  whole = _batches(5, start_step=2)
  parts = _part_of_each(5, 2, start_step=2)
  for step, batch in enumerate(whole):
    for key, array in batch.items():
      joined = np.concatenate([part[step][key] for part in parts])
      np.testing.assert_array_equal(joined, array)
  with pytest.raises(ValueError, match="in 3 parts"):
    _batches(1, process_count=3)


def test_processes_stream_shards_of_their_own_and_resume():
  arguments = {
    "mixture_or_task_name": "tiny_generation_fi",
    "max_examples_in_memory": 0,
  }
  parts = _part_of_each(6, 2, **arguments)
  first, second = (
    {row.tobytes() for batch in part for row in batch["decoder_target_tokens"]}
    for part in parts
  )
  assert len(first) == len(second) == 4
  assert not first & second
  later = _part_of_each(2, 2, start_step=4, **arguments)
  for part, rest in zip(parts, later, strict=True):
    for a, b in zip(part[4:], rest, strict=True):
      np.testing.assert_array_equal(
        a["decoder_target_tokens"], b["decoder_target_tokens"]
      )


def test_sampler_shares_epochs_by_the_rates():
  sampler = EpochSampler([6, 2], [1.0, 1.0], seed=0)
  assert sampler.shares == [4, 4]
  counts = collections.Counter(sampler.rows(0, 24).tolist())
  # Three epochs: 12 draws of six examples, 12 of two.
  assert counts == {**dict.fromkeys(range(6), 2), 6: 6, 7: 6}
  np.testing.assert_array_equal(sampler.rows(0, 24)[5:17], sampler.rows(5, 12))


def test_sampler_takes_turns_among_the_draws():
  sampler = EpochSampler([3, 2], [3, 2], seed=1, num_draws=2)
  assert sorted(sampler.epoch(0)) == [0, 1, 2, 6, 7]
  assert sorted(sampler.epoch(1)) == [3, 4, 5, 8, 9]
  assert sorted(sampler.epoch(2)) == [0, 1, 2, 6, 7]


def test_unknown_task_names_the_known_ones():
  with pytest.raises(InputError, match="tiny_generation"):
    _batches(1, mixture_or_task_name="tiny_generatoin")
