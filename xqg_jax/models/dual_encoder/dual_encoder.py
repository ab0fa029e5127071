"""Dual encoder ready for use: network, parameters, tokenizer.

Both sides share one set of parameters, or have one each:

  shared    {"encoder": ..., "projection": ...}
  separate  {"query_encoder": side, "passage_encoder": side}, a side as above

`encoder` holds the transformer's parameters. `projection` is there only when
the configuration asks for it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from xqg_jax.data.passages import Passage
from xqg_jax.errors import InputError
from xqg_jax.io import files
from xqg_jax.models.dual_encoder.config import DualEncoderConfig
from xqg_jax.models.dual_encoder.text_embedder import TextEmbedder
from xqg_jax.models.encoder_families import (
  EncoderConfig,
  find_family,
  get_max_length,
  make_encoder,
)
from xqg_jax.models.parameters import params_fingerprint
from xqg_jax.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True, eq=False)
class DualEncoder:
  """A dual encoder that was loaded: what embeds, parameters, tokenizer.

  `module` is the transformer of either side. `fingerprint` says which vectors
  it makes; stores and indexes carry it.
  """

  module: nn.Module
  params: Mapping[str, Any]
  config: DualEncoderConfig
  tokenizer: Tokenizer
  fingerprint: str

  @property
  def embedder(self) -> TextEmbedder:
    """What embeds, without the parameters."""
    return TextEmbedder(self.module, self.config)

  @property
  def dim(self) -> int:
    """The length of an embedding."""
    return self.embedder.dim

  def format_query(self, query: str) -> str:
    """As `DualEncoderConfig.format_query`."""
    return self.config.format_query(query)

  def format_passage(self, passage: Passage) -> str:
    """As `DualEncoderConfig.format_passage`."""
    return self.config.format_passage(passage)

  def embed(
    self, params: Mapping[str, Any], *rows: Int[Array, "..."], **options: Any
  ) -> Float[Array, "rows num_segments dim"]:
    """As `TextEmbedder.embed`."""
    return self.embedder.embed(params, *rows, **options)


def make_dual_encoder(
  *,
  model_config: EncoderConfig,
  params: Mapping[str, Any],
  config: DualEncoderConfig,
  tokenizer: Tokenizer,
  dtype: Any = jnp.float32,
) -> DualEncoder:
  """Joins the parts of a dual encoder and takes its fingerprint.

  Args:
    model_config: the transformer's sizes.
    params: the parameters, of both sides if they are separate.
    config: pooling, projection, prefixes and lengths.
    tokenizer: its tokenizer.
    dtype: of matrix products; parameters stay as they are.

  Raises:
    InputError: the tokenizer or the lengths exceed the model's tables, or
      float16 for T5.
  """
  _check_fit(model_config, config, tokenizer)
  identity = {
    "params": params_fingerprint(params),
    "tokenizer": tokenizer.fingerprint,
    "model": find_family(model_config).get_constants(model_config),
    **dataclasses.asdict(config),
  }
  # They say how much of a text is read, not which encoder reads it.
  del identity["query_length"], identity["passage_length"]
  return DualEncoder(
    module=make_encoder(model_config, dtype),
    params=params,
    config=config,
    tokenizer=tokenizer,
    fingerprint=files.fingerprint(identity),
  )


def _check_fit(
  model: EncoderConfig, config: DualEncoderConfig, tokenizer: Tokenizer
) -> None:
  if tokenizer.vocab_size > model.vocab_size:
    raise InputError(
      f"the tokenizer has {tokenizer.vocab_size} tokens, but "
      f"{find_family(model).vocabulary_name} has {model.vocab_size} rows",
      mend="take tokenizer and weights from one model",
    )
  limit = get_max_length(model)
  for name in ("query_length", "passage_length"):
    length = getattr(config, name)
    if limit is not None and length > limit:
      raise InputError(
        f"{name} is {length}, but the model has {limit} positions",
        mend=f"set {name} to {limit} or less",
      )
