"""Batches of a SeqIO task or mixture, as the training loop draws them.

A small collection is converted once and kept in memory; its batches are a
pure function of seed and step, so a resumed run needs no replay, and every
epoch gives each example exactly once. A larger one streams through
TensorFlow's pipeline, which a resumed run fast-forwards.
"""

import functools
import logging
import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
from jaxtyping import Int

from xqg_jax.errors import InputError
from xqg_jax.seqio_data.epochs import EpochSampler
from xqg_jax.seqio_data.preprocessors import MAX_CACHED_EXAMPLES, Lengths
from xqg_jax.seqio_data.vocabularies import is_vocabulary_of
from xqg_jax.text.tokenizer import Tokenizer

Arrays = dict[str, Int[np.ndarray, "..."]]

_ROWS_A_READ = 512


def make_batches(
  *,
  mixture_or_task_name: str,
  task_feature_lengths: Lengths,
  feature_converter: seqio.FeatureConverter,
  batch_size: int,
  seed: int,
  start_step: int = 0,
  train_steps: int | None = None,
  num_draws: int = 1,
  max_examples_in_memory: int = MAX_CACHED_EXAMPLES,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[Arrays]:
  """Yields the batches of steps `start_step`, `start_step + 1`, ... forever.

  Of several processes each yields its own rows. A collection in memory gives
  the batches that one process would get; of a streamed one each process reads
  its own files, or every so many examples where there are too few files.

  Args:
    mixture_or_task_name: a registered SeqIO task or mixture.
    task_feature_lengths: length of each feature of the task.
    feature_converter: makes the model's features.
    batch_size: examples in a batch.
    seed: decides order, mixing and draws.
    start_step: the first step asked for.
    train_steps: of the whole run, which needs no more draws of a task than it
      goes through it; None: no end is known.
    num_draws: a collection in memory takes turns, epoch by epoch, among so
      many draws of the task's random preprocessing.
    max_examples_in_memory: larger collections are streamed.
    process_index: which part of each batch is wanted
      (`sharding.find_batch_part`).
    process_count: parts of a batch, all of one size.

  Raises:
    InputError: no such task.
    ValueError: a batch that has no such parts.
  """
  if batch_size % process_count:
    raise ValueError(f"{batch_size=} cannot be split in {process_count} parts")
  # TensorFlow only reads data: the accelerator belongs to jax.
  tf.config.set_visible_devices([], "GPU")
  provider = get_mixture_or_task(mixture_or_task_name)
  # SeqIO warns of every task that rates count the examples of, as meant here.
  logging.getLogger("absl").addFilter(_is_no_note_on_rates)
  if process_index == 0:
    report_cut_prompts(mixture_or_task_name, task_feature_lengths)
  part_size = batch_size // process_count
  read = functools.partial(
    _read, task_feature_lengths, feature_converter, seed=seed
  )
  tasks = seqio.get_subtasks(provider)
  rates = [
    provider.get_rate(task) if isinstance(provider, seqio.Mixture) else 1.0
    for task in tasks
  ]
  if _count_examples(tasks) > max_examples_in_memory:
    dataset = read(
      provider,
      shuffle=True,
      num_epochs=None,
      skip=start_step * part_size,
      shard_info=seqio.ShardInfo(process_index, process_count),
    )
    dataset = dataset.batch(part_size, drop_remainder=True)
    batches: Any = dataset.prefetch(tf.data.AUTOTUNE).as_numpy_iterator()
    return batches
  if train_steps is not None:
    passes = _count_passes(tasks, rates, train_steps * batch_size)
    num_draws = min(num_draws, passes)
  parts = [
    _to_arrays(read(task, shuffle=False, num_epochs=num_draws))
    for task in tasks
  ]
  batches = _draw_batches(parts, rates, batch_size, seed, start_step, num_draws)
  rows = slice(process_index * part_size, (process_index + 1) * part_size)
  return ({key: x[rows] for key, x in batch.items()} for batch in batches)


def _count_examples(tasks: Sequence[seqio.Task]) -> float:
  """Examples before preprocessing; infinite if a source cannot tell."""
  counts = [task.num_input_examples("train") for task in tasks]
  return sum(math.inf if count is None else count for count in counts)


def _count_passes(
  tasks: Sequence[seqio.Task], rates: Sequence[float], num_drawn: int
) -> int:
  """How often a run goes through the task that it goes through most often."""
  return max(
    math.ceil(num_drawn * rate / sum(rates) / max(count, 1))
    for task, rate in zip(tasks, rates, strict=True)
    if (count := task.num_input_examples("train")) is not None
  )


def get_mixture_or_task(name: str) -> seqio.Task | seqio.Mixture:
  """Looks a registered task or mixture up, the shipped ones among them.

  Raises:
    InputError: no such task.
  """
  try:
    return seqio.get_mixture_or_task(name)
  except ValueError:
    known = sorted(
      {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
    )
    raise InputError(
      f"no task or mixture is named {name!r}",
      mend="use one of " + (", ".join(known) or "those you register first"),
    ) from None


def check_vocabulary(mixture_or_task_name: str, tokenizer: Tokenizer) -> None:
  """Refuses a task whose tokens mean something else to the model.

  Raises:
    InputError: the task has another tokenizer.
  """
  provider = get_mixture_or_task(mixture_or_task_name)
  for feature in provider.output_features.values():
    if not is_vocabulary_of(feature.vocabulary, tokenizer):
      raise InputError(
        f"the task {mixture_or_task_name!r} has another tokenizer than the "
        "model",
        mend="register the task with the tokenizer of the model",
      )


def _is_no_note_on_rates(record: logging.LogRecord) -> bool:
  return "not cached so using number of input" not in record.getMessage()


def report_cut_prompts(
  mixture_or_task_name: str,
  task_feature_lengths: Lengths | None,
  *,
  split: str = "train",
  max_examples: int = MAX_CACHED_EXAMPLES,
) -> tuple[int, int]:
  """Counts the prompts that are too long, and says so in one line if any are.

  Args:
    mixture_or_task_name: tasks without prompts, or without the split, have
      nothing to report.
    task_feature_lengths: with the limit, as `inputs`.
    split: whose prompts are counted.
    max_examples: the most prompts looked at in each task.

  Returns:
    Prompts that are cut, and prompts looked at.
  """
  provider = get_mixture_or_task(mixture_or_task_name)
  if task_feature_lengths is None or "inputs" not in provider.output_features:
    return 0, 0
  flags: list[int] = []
  is_partial = False
  for task in seqio.get_subtasks(provider):
    if split in task.splits:
      dataset = task.get_dataset(
        task_feature_lengths, split=split, shuffle=False, num_epochs=1, seed=0
      )
      if "is_cut" in dataset.element_spec:
        cut = dataset.map(lambda example: example["is_cut"])
        found = list(cut.take(max_examples + 1).as_numpy_iterator())
        is_partial |= len(found) > max_examples
        flags.extend(found[:max_examples])
  if any(flags):
    first = "the first " if is_partial else ""
    print(
      f"{mixture_or_task_name}: {sum(flags):,} of {first}{len(flags):,} "
      f"prompts have more than {task_feature_lengths['inputs']} tokens and "
      "lose the end of their passage",
      file=sys.stderr,
    )
  return int(sum(flags)), len(flags)


def _read(
  lengths: Lengths,
  feature_converter: seqio.FeatureConverter,
  provider: seqio.Task | seqio.Mixture,
  *,
  seed: int,
  shuffle: bool,
  num_epochs: int | None,
  skip: int = 0,
  shard_info: seqio.ShardInfo | None = None,
) -> tf.data.Dataset:
  dataset = provider.get_dataset(
    lengths,
    split="train",
    shuffle=shuffle,
    seed=seed,
    num_epochs=num_epochs,
    shard_info=shard_info,
  )
  return feature_converter(dataset.skip(skip), task_feature_lengths=lengths)


def _to_arrays(dataset: tf.data.Dataset) -> Arrays:
  blocks = list(dataset.batch(_ROWS_A_READ).as_numpy_iterator())
  return {key: np.concatenate([b[key] for b in blocks]) for key in blocks[0]}


def _draw_batches(
  parts: Sequence[Arrays],
  rates: Sequence[float],
  batch_size: int,
  seed: int,
  start_step: int,
  num_draws: int,
) -> Iterator[Arrays]:
  sizes = [len(next(iter(part.values()))) // num_draws for part in parts]
  sampler = EpochSampler(sizes, rates, seed, num_draws)
  arrays = {
    key: np.concatenate([part[key] for part in parts]) for key in parts[0]
  }
  step = start_step
  while True:
    rows = sampler.rows(step * batch_size, batch_size)
    yield {key: array[rows] for key, array in arrays.items()}
    step += 1
