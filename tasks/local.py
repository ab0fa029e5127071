"""Registers the tasks of a collection that lies in a local folder."""

import os
import pathlib
from collections.abc import Sequence

from xqg_jax.tasks.dual_encoder import register_dual_encoder_task
from xqg_jax.tasks.generation import register_generation_tasks

from xqg_jax.data_sources import TrainingPairsSource, count_pairs
from xqg_jax.errors import InputError
from xqg_jax.languages import get_language
from xqg_jax.models.dual_encoder import DualEncoderConfig
from xqg_jax.tokenizers import Tokenizer
from xqg_jax.vocabularies import HuggingFaceVocabulary

PAIRS_FILE = "train_pairs.jsonl"


def register_local_tasks(
  *,
  name: str,
  data_dir: str | os.PathLike,
  generator_tokenizer: Tokenizer | str | os.PathLike | None = None,
  encoder_tokenizer: Tokenizer | str | os.PathLike | None = None,
  encoder_config: DualEncoderConfig | None = None,
  languages: Sequence[str] | None = None,
) -> None:
  """Registers tasks over `<data_dir>/train_pairs.jsonl`.

  With a generator tokenizer: `<name>_generation_<language>` and the mixture
  `<name>_generation`, in proportion to the languages' sizes. With an encoder
  tokenizer: `<name>_dual_encoder`. Tasks registered under these names before
  are replaced.

  Args:
    name: prefix of the tasks' names.
    data_dir: folder with training pairs of Tevatron/DPR form, with `lang`.
    generator_tokenizer: tokenizer of the query generator, or its folder.
    encoder_tokenizer: tokenizer of the dual encoder, or its folder.
    encoder_config: gives the prefixes of queries and passages; none if absent.
    languages: those to generate in; by default all in the file.

  Raises:
    InputError: no such file, a malformed line, an unknown language.
  """
  path = pathlib.Path(data_dir) / PAIRS_FILE
  counts = count_pairs(path)
  if generator_tokenizer is not None:
    codes = sorted(counts) if languages is None else languages
    register_generation_tasks(
      name=f"{name}_generation",
      make_source=lambda code: TrainingPairsSource(
        {"train": path}, language=code
      ),
      languages=[_check_language(code, path) for code in codes],
      vocabulary=HuggingFaceVocabulary(generator_tokenizer),
    )
  if encoder_tokenizer is not None:
    config = encoder_config or DualEncoderConfig(pooling="cls", normalize=False)
    register_dual_encoder_task(
      name=f"{name}_dual_encoder",
      source=TrainingPairsSource({"train": path}),
      vocabulary=HuggingFaceVocabulary(encoder_tokenizer),
      config=config,
    )


def _check_language(code: str, path: pathlib.Path) -> str:
  if not code:
    raise InputError(
      "some pairs have no language",
      where=path,
      mend="give each pair a 'lang', or name the languages to use",
    )
  return get_language(code, where=path).code
