"""Query writers, and the one that a checkpoint is for."""

import os

from xqg_jax.generation.output_vocabulary import TextSource
from xqg_jax.generation.query_writer import QuerySettings, QueryWriter
from xqg_jax.generation.writers.t5 import open_t5_writer


def open_writer(
  checkpoint_path: str | os.PathLike,
  settings: QuerySettings,
  *,
  tokenizer_path: str | os.PathLike | None = None,
  language_in: str | None = None,
  dtype: str = "float32",
  vocabulary_texts: TextSource | None = None,
) -> QueryWriter:
  """Loads a checkpoint and opens its writer; there is T5's so far.

  Args:
    checkpoint_path: as for `load_query_generator`.
    settings: what decides the queries; `language_in` is replaced.
    tokenizer_path: the tokenizer of a checkpoint that has none beside it.
    language_in: "prompt" or "decoder"; None: as the checkpoint was trained,
      "prompt" where it does not say.
    dtype: of matrix products.
    vocabulary_texts: real text in each language, of whose tokens queries
      consist; None: of all.

  Raises:
    InputError: a bad checkpoint, or one trained with the language elsewhere.
  """
  return open_t5_writer(
    checkpoint_path,
    settings,
    tokenizer_path=tokenizer_path,
    language_in=language_in,
    dtype=dtype,
    vocabulary_texts=vocabulary_texts,
  )
