"""SeqIO tasks of a collection in a local folder.

The functions named like tasks register and return a name, so that a gin file
can say `MIXTURE_OR_TASK_NAME = @tasks.local_generation()`.
"""

import os
from collections.abc import Mapping, Sequence

from xqg_jax.data.languages import XOR_TYDI_LANGUAGES
from xqg_jax.data.pair_folder import (
  count_pairs,
  find_languages,
  find_splits,
  keep_splits_in,
)
from xqg_jax.models.dual_encoder.config import DualEncoderConfig
from xqg_jax.seqio_data.batches import report_cut_prompts
from xqg_jax.seqio_data.sources import TrainingPairsSource
from xqg_jax.seqio_data.vocabularies import load_vocabulary
from xqg_jax.tasks.dual_encoder import register_dual_encoder_task
from xqg_jax.tasks.generation import (
  get_mixture_name,
  register_generation_tasks,
  register_inference_task,
)
from xqg_jax.text.tokenizer import Tokenizer

TokenizerPath = Tokenizer | str | os.PathLike


def register_local_tasks(
  *,
  name: str,
  data_dir: str | os.PathLike,
  generator_tokenizer: TokenizerPath | None = None,
  encoder_tokenizer: TokenizerPath | None = None,
  encoder_config: DualEncoderConfig | None = None,
  languages: Sequence[str] | None = None,
  language_in: str = "prompt",
) -> None:
  """Registers tasks over a folder with `train_pairs.jsonl`.

  With a generator tokenizer: `<name>_generation_<language>` and the mixtures
  `<name>_generation`, `<name>_generation_equal` and
  `<name>_generation_temperature`. With an encoder tokenizer:
  `<name>_dual_encoder`. Tasks registered under these names before are
  replaced.

  They have a split `validation` where the folder has pairs for it:
  `dev_pairs.jsonl`, or dev questions with their relevant passages
  (`questions_dev.jsonl`, `qrels_dev.tsv`, `passages.tsv`).

  Args:
    name: prefix of the tasks' names.
    data_dir: folder with training pairs of Tevatron/DPR form, with `lang`.
    generator_tokenizer: as `load_vocabulary` takes it.
    encoder_tokenizer: as `load_vocabulary` takes it.
    encoder_config: gives the prefixes of queries and passages; none if absent.
    languages: those to generate in; by default all in the file.
    language_in: what names the language to the generator, "prompt" or
      "decoder".

  Raises:
    InputError: no such file, a malformed line, an unknown language.
  """
  paths = find_splits(data_dir)
  count_pairs(paths["train"])  # refuses malformed lines at once
  if generator_tokenizer is not None:
    register_generation_tasks(
      name=f"{name}_generation",
      make_source=lambda code: TrainingPairsSource(
        keep_splits_in(code, paths), language=code
      ),
      languages=find_languages(paths["train"], languages),
      vocabulary=load_vocabulary(generator_tokenizer),
      language_in=language_in,
    )
  if encoder_tokenizer is not None:
    config = encoder_config or DualEncoderConfig(pooling="cls", normalize=False)
    register_dual_encoder_task(
      name=f"{name}_dual_encoder",
      source=TrainingPairsSource(paths),
      vocabulary=load_vocabulary(encoder_tokenizer),
      config=config,
    )


def local_generation(
  *,
  data_dir: str | os.PathLike,
  tokenizer: TokenizerPath,
  name: str = "local",
  rate: str = "proportional",
  languages: Sequence[str] | None = None,
  language_in: str = "prompt",
) -> str:
  """Registers the generation tasks of a folder; returns the mixture's name.

  Args:
    data_dir: folder with `train_pairs.jsonl`.
    tokenizer: of the model, as `load_vocabulary` takes it.
    name: prefix of the tasks' names.
    rate: `proportional`, `equal` or `temperature`.
    languages: those to generate in; by default all in the file.
    language_in: what names the language, "prompt" or "decoder".

  Raises:
    InputError: as `register_local_tasks`, or an unknown rate.
  """
  register_local_tasks(
    name=name,
    data_dir=data_dir,
    generator_tokenizer=tokenizer,
    languages=languages,
    language_in=language_in,
  )
  return get_mixture_name(f"{name}_generation", rate)


def local_dual_encoder(
  *,
  data_dir: str | os.PathLike,
  tokenizer: TokenizerPath,
  name: str = "local",
  encoder_config: DualEncoderConfig | None = None,
) -> str:
  """Registers the dual-encoder task of a folder; returns its name."""
  register_local_tasks(
    name=name,
    data_dir=data_dir,
    encoder_tokenizer=tokenizer,
    encoder_config=encoder_config,
  )
  return f"{name}_dual_encoder"


def local_inference(
  *,
  passages: str | os.PathLike,
  tokenizer: TokenizerPath,
  name: str = "local",
  languages: Sequence[str] = XOR_TYDI_LANGUAGES,
  task_feature_lengths: Mapping[str, int] | None = None,
) -> str:
  """Registers the inference task of a file of passages; returns its name.

  Args:
    passages: TSV or JSONL file.
    tokenizer: of the model, as `load_vocabulary` takes it.
    name: prefix of the task's name.
    languages: to ask for.
    task_feature_lengths: with the limit of prompts, to say in one line how
      many are cut; None says nothing.
  """
  register_inference_task(
    name=f"{name}_inference",
    passages=passages,
    languages=languages,
    vocabulary=load_vocabulary(tokenizer),
  )
  report_cut_prompts(f"{name}_inference", task_feature_lengths, split="test")
  return f"{name}_inference"
