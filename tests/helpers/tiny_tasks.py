"""SeqIO tasks named `tiny_...` over the tiny collection."""

import pathlib
from typing import Any

import seqio

import xqg_jax.tasks as tasks
from tests.helpers.tiny_collection import make_tokenizer, write_collection
from xqg_jax.models.dual_encoder.config import DualEncoderConfig

ENCODER = DualEncoderConfig(
  pooling="cls",
  normalize=False,
  query_prefix="query: ",
  passage_prefix="passage: ",
)
DUAL_LENGTHS = {"query": 12, "passage": 24, "negative_passages": (2, 24)}
GENERATION_LENGTHS = {"inputs": 40, "targets": 16}


def register_tiny_tasks(folder: pathlib.Path) -> pathlib.Path:
  """Writes the collection to `folder` and registers its tasks."""
  tasks.register_local_tasks(
    name="tiny",
    data_dir=write_collection(folder),
    generator_tokenizer=make_tokenizer("t5"),
    encoder_tokenizer=make_tokenizer("bert"),
    encoder_config=ENCODER,
  )
  return folder


def read_examples(name: str, lengths: Any, **kwargs: Any) -> list:
  """One epoch of a task, in order unless told otherwise."""
  provider = seqio.get_mixture_or_task(name)
  dataset = provider.get_dataset(
    lengths, **{"shuffle": False, "seed": 0, "num_epochs": 1, **kwargs}
  )
  return list(dataset.as_numpy_iterator())
