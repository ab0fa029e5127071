"""SeqIO tasks of XOR-TyDi and Natural Questions, as TFDS has them.

  xqg_generation_<language>      a question to a passage, in one language
  xqg_generation                 their mixture in proportion to their sizes
  xqg_generation_equal           ... all languages alike
  xqg_generation_temperature     ... by the square roots of their sizes
  xdr_xor_tydi, xdr_nq           questions with positives and hard negatives
  xdr_xor_tydi_nq                the mixture of the two

`xqg prepare` writes the data; nothing is read before use.
"""

import os

import seqio

from xqg_jax.data.languages import XOR_TYDI_LANGUAGES
from xqg_jax.models.dual_encoder.config import DualEncoderConfig
from xqg_jax.seqio_data.sources import TfdsPairsSource
from xqg_jax.seqio_data.vocabularies import MT5_SENTENCEPIECE, load_vocabulary
from xqg_jax.tasks.dual_encoder import register_dual_encoder_task
from xqg_jax.tasks.generation import (
  RATES,
  get_mixture_name,
  register_generation_tasks,
)
from xqg_jax.text.tokenizer import Tokenizer

# Annotated paragraphs, as the paper's generator saw them, with a validation
# split; the pairs have passages of 100 words and hard negatives.
GOLD_PASSAGES = "xor_tydi/gold_passages:1.0.0"
XOR_TYDI_PAIRS = "xor_tydi/pairs:1.0.0"
NATURAL_QUESTIONS = "natural_questions_dpr/dpr:1.0.0"

GENERATION = "xqg_generation"
DUAL_ENCODER = "xdr_xor_tydi"
# The paper's encoder.
ENCODER_TOKENIZER = "bert-base-multilingual-cased"

TokenizerPath = Tokenizer | str | os.PathLike


def register_xor_tydi_tasks() -> None:
  """Registers all tasks of this module with their usual vocabularies."""
  xor_tydi_generation()
  xor_tydi_dual_encoder()


def xor_tydi_generation(
  *,
  tokenizer: TokenizerPath = MT5_SENTENCEPIECE,
  rate: str = "proportional",
  tfds_name: str = GOLD_PASSAGES,
  tfds_data_dir: str | None = None,
  language_in: str = "prompt",
) -> str:
  """Registers the generation tasks; returns the name of a mixture.

  Args:
    tokenizer: of the model, as `load_vocabulary` takes it.
    rate: `proportional`, `equal` or `temperature`.
    tfds_name: the pairs, `GOLD_PASSAGES` or `XOR_TYDI_PAIRS`.
    tfds_data_dir: where TFDS keeps its data; None: where it usually does.
    language_in: what names the language, "prompt" or "decoder".

  Raises:
    InputError: an unknown rate.
  """
  mixture = get_mixture_name(GENERATION, rate)
  register_generation_tasks(
    name=GENERATION,
    make_source=lambda code: TfdsPairsSource(
      tfds_name, language=code, tfds_data_dir=tfds_data_dir
    ),
    languages=XOR_TYDI_LANGUAGES,
    vocabulary=load_vocabulary(tokenizer),
    language_in=language_in,
  )
  return mixture


def xor_tydi_dual_encoder(
  *,
  tokenizer: TokenizerPath = ENCODER_TOKENIZER,
  encoder_config: DualEncoderConfig | None = None,
  tfds_data_dir: str | None = None,
) -> str:
  """Registers the dual-encoder tasks; returns the name `xdr_xor_tydi`.

  Args:
    tokenizer: of the model, as `load_vocabulary` takes it.
    encoder_config: gives the prefixes of queries and passages; none if absent.
    tfds_data_dir: where TFDS keeps its data; None: where it usually does.
  """
  config = encoder_config or DualEncoderConfig(pooling="cls", normalize=False)
  names = {DUAL_ENCODER: XOR_TYDI_PAIRS, "xdr_nq": NATURAL_QUESTIONS}
  for name, tfds_name in names.items():
    register_dual_encoder_task(
      name=name,
      source=TfdsPairsSource(tfds_name, tfds_data_dir=tfds_data_dir),
      vocabulary=load_vocabulary(tokenizer),
      config=config,
    )
  mixture = f"{DUAL_ENCODER}_nq"
  seqio.MixtureRegistry.remove(mixture)
  seqio.MixtureRegistry.add(
    mixture, [(name, RATES["proportional"]) for name in names]
  )
  return DUAL_ENCODER


def register_tasks_of(
  mixture_or_task_name: str,
  *,
  tokenizer: Tokenizer,
  encoder_config: DualEncoderConfig | None = None,
  tfds_data_dir: str | None = None,
  language_in: str = "prompt",
) -> bool:
  """Gives the shipped tasks a model's own tokenizer, if the name is theirs.

  Args:
    mixture_or_task_name: any task's name.
    tokenizer: of the model.
    encoder_config: of a dual encoder.
    tfds_data_dir: where TFDS keeps its data; None: where it usually does.
    language_in: of a query generator.

  Returns:
    Whether the name is that of a shipped task; others are left alone.
  """
  if mixture_or_task_name.startswith(GENERATION):
    xor_tydi_generation(
      tokenizer=tokenizer, tfds_data_dir=tfds_data_dir, language_in=language_in
    )
  elif mixture_or_task_name.startswith("xdr_"):
    xor_tydi_dual_encoder(
      tokenizer=tokenizer,
      encoder_config=encoder_config,
      tfds_data_dir=tfds_data_dir,
    )
  else:
    return False
  return True
