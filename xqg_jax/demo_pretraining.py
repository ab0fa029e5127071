"""Makes the small query generator that the demo starts from.

It stands for the pretrained mT5 of a real run: trained from scratch on the
training split of a larger collection of other entities. What is shipped in
`demo_generator/` was written by `scripts/make_demo_generator.py`.
"""

import pathlib

from xqg_jax.checkpoints import export_hugging_face, load_query_generator
from xqg_jax.files import atomic_path
from xqg_jax.models.t5_config import T5Config
from xqg_jax.preparation import prepare
from xqg_jax.records import read_training_pairs, write_training_pairs
from xqg_jax.trainable import QueryGeneratorModel
from xqg_jax.training import train
from xqg_jax.xor_mini import iter_passages

SHIPPED_GENERATOR = pathlib.Path(__file__).parent / "demo_generator"
PROMPT_LENGTH = 40  # the title and about the first two sentences
QUESTION_LENGTH = 36
VOCAB_SIZE = 3000
NUM_PASSAGES = 20_000
SEED = 1000  # of the collection; demos take the small seeds
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
  *, output_dir: str, train_steps: int = 1400
) -> pathlib.Path:
  """Trains the generator from scratch and writes it in Hugging Face's form.

  Args:
    output_dir: folder to write; the same call goes on where it stopped.
    train_steps: steps of 128 pairs.

  Returns:
    The folder `generator` in it: `config.json`, `model.safetensors`,
    `tokenizer.json`.
  """
  folder = pathlib.Path(output_dir)
  collection = prepare(
    output_dir=str(folder / "collection"),
    num_passages=NUM_PASSAGES,
    seed=SEED,
    vocab_size=VOCAB_SIZE,
  )
  _write_pairs(collection, folder / "pairs")
  train(
    model_dir=str(folder / "training"),
    model=QueryGeneratorModel(
      config=make_generator_config(),
      tokenizer=str(collection / "t5_tokenizer"),
      dropout_rate=0.0,
    ),
    mixture_or_task_name="local_generation",
    data_dir=str(folder / "pairs"),
    task_feature_lengths={"inputs": PROMPT_LENGTH, "targets": QUESTION_LENGTH},
    train_steps=train_steps,
    batch_size=128,
    learning_rate=3e-3,
    schedule="cosine",
    warmup_steps=train_steps // 20,
  )
  exported = folder / "generator"
  if not exported.exists():
    with atomic_path(exported) as partial:
      partial.mkdir()
      export_hugging_face(
        partial, load_query_generator(str(folder / "training"))
      )
  return exported


def _write_pairs(collection: pathlib.Path, folder: pathlib.Path) -> None:
  """Copies the training pairs whose entity no demo collection holds."""
  reserved = {
    passage.title
    for seed in RESERVED_SEEDS
    for passage in iter_passages(RESERVED_PASSAGES, seed)
  }
  pairs = read_training_pairs(collection / "train_pairs.jsonl")
  with (
    atomic_path(folder / "train_pairs.jsonl") as partial,
    partial.open("w", encoding="utf-8") as file,
  ):
    write_training_pairs(
      file, (p for p in pairs if p.positives[0].title not in reserved)
    )
