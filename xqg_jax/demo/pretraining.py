"""Pretraining of the demo's small query generator.

It stands for the pretrained mT5 of a real run. Trained from scratch, it first
learns to transliterate names, which mT5 knows from the web, then to ask about
the entities of the training split of a larger collection. Neither holds an
entity of the demo's collections. What is shipped in `demo_generator/` was
written by `scripts/make_demo_generator.py`.
"""

import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from xqg_jax.checkpoints import export_query_generator, load_query_generator
from xqg_jax.data.languages import XOR_TYDI_LANGUAGES
from xqg_jax.data.passages import Passage
from xqg_jax.data.training_pairs import (
  TrainingPair,
  read_training_pairs,
  write_training_pairs,
)
from xqg_jax.io.files import atomic_path
from xqg_jax.io.paths import Path, to_path
from xqg_jax.models.t5.config import T5Config
from xqg_jax.stages.prepare import prepare
from xqg_jax.stages.train import train
from xqg_jax.training.query_generator_model import QueryGeneratorModel
from xqg_jax.xor_mini import iter_passages
from xqg_jax.xor_mini.names import Names, spell, transliterate

SHIPPED_GENERATOR = pathlib.Path(__file__).parent / "generator"
PROMPT_LENGTH = 40  # the title and about the first two sentences
QUESTION_LENGTH = 36
VOCAB_SIZE = 3000
NUM_PASSAGES = 20_000
SEED = 1000  # of the collection; demos take the small seeds
NUM_NAMES = 20_000
FIRST_NAME = 8_000_000  # far beyond the names of the collection
# No entity of these demo collections may be seen while pretraining.
RESERVED_SEEDS = range(10)
RESERVED_PASSAGES = 2000


def make_generator_config() -> T5Config:
  """Two encoder and two decoder layers of width 96."""
  return T5Config(
    vocab_size=VOCAB_SIZE,
    emb_dim=96,
    num_heads=3,
    head_dim=32,
    mlp_dim=192,
    num_encoder_layers=2,
    num_decoder_layers=2,
  )


def pretrain_generator(
  *, output_dir: str, name_steps: int = 800, question_steps: int = 500
) -> Path:
  """Trains the generator from scratch and writes it in Hugging Face's form.

  Args:
    output_dir: folder to write; the same call goes on where it stopped.
    name_steps: steps of 256 names to transliterate.
    question_steps: steps of 128 prompts with their questions.

  Returns:
    The folder `generator` in it: `config.json`, `model.safetensors`,
    `tokenizer.json`.
  """
  folder = to_path(output_dir)
  collection = prepare(
    output_dir=str(folder / "collection"),
    num_passages=NUM_PASSAGES,
    seed=SEED,
    vocab_size=VOCAB_SIZE,
  )
  _write_pairs(make_name_pairs(), folder / "names")
  _write_pairs(
    read_training_pairs(collection / "train_pairs.jsonl"), folder / "questions"
  )
  _train(
    folder / "names",
    QueryGeneratorModel(
      config=make_generator_config(),
      tokenizer=str(collection / "t5_tokenizer"),
      dropout_rate=0.0,
    ),
    task_feature_lengths={"inputs": 24, "targets": 16},
    train_steps=name_steps,
    batch_size=256,
    learning_rate=3e-3,
  )
  _train(
    folder / "questions",
    QueryGeneratorModel(dropout_rate=0.0),
    initial_checkpoint_path=str(folder / "names" / "training"),
    task_feature_lengths={"inputs": PROMPT_LENGTH, "targets": QUESTION_LENGTH},
    train_steps=question_steps,
    batch_size=128,
    learning_rate=2e-3,
  )
  exported = folder / "generator"
  if not exported.exists():
    with atomic_path(exported) as partial:
      partial.mkdir()
      export_query_generator(
        partial, load_query_generator(str(folder / "questions" / "training"))
      )
  return exported


def _train(
  folder: Path,
  model: QueryGeneratorModel,
  train_steps: int,
  **settings: Any,
) -> None:
  train(
    model_dir=str(folder / "training"),
    model=model,
    mixture_or_task_name="local_generation",
    data_dir=str(folder),
    train_steps=train_steps,
    schedule="cosine",
    warmup_steps=train_steps // 20,
    **settings,
  )


def make_name_pairs() -> Iterator[TrainingPair]:
  """Names as titles without text, to be written in each language in turn."""
  names = Names(SEED)
  for number in range(NUM_NAMES):
    name = names[FIRST_NAME + number]
    language = XOR_TYDI_LANGUAGES[number % len(XOR_TYDI_LANGUAGES)]
    passage = Passage(str(number), "", spell(name))
    query = transliterate(name, language)
    yield TrainingPair(str(number), query, language, (passage,))


def iter_allowed_pairs(pairs: Iterable[TrainingPair]) -> Iterator[TrainingPair]:
  """The pairs whose entity no demo collection holds."""
  reserved = {
    passage.title
    for seed in RESERVED_SEEDS
    for passage in iter_passages(RESERVED_PASSAGES, seed)
  }
  for pair in pairs:
    if pair.positives[0].title not in reserved:
      yield pair


def _write_pairs(pairs: Iterable[TrainingPair], folder: Path) -> None:
  with (
    atomic_path(folder / "train_pairs.jsonl") as partial,
    partial.open("w", encoding="utf-8") as file,
  ):
    write_training_pairs(file, iter_allowed_pairs(pairs))
