"""A dual encoder: transformers for queries and passages, pooled, projected.

Both sides share one set of parameters, or have one each:

  shared    {"encoder": ..., "projection": ...}
  separate  {"query_encoder": side, "passage_encoder": side}, a side as above

`encoder` holds the transformer's parameters. `projection` is there only when
the configuration asks for it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import partitioning
from jaxtyping import Array, Float, Int

from xqg_jax import files
from xqg_jax.errors import InputError
from xqg_jax.models.bert import BertEncoder
from xqg_jax.models.encoders import (
  EncoderConfig,
  get_constants,
  get_max_length,
  get_vocabulary_name,
  get_width,
  make_encoder,
)
from xqg_jax.models.parameters import params_fingerprint
from xqg_jax.models.pooling import (
  find_first_tokens,
  normalize_embeddings,
  pool_segments,
)
from xqg_jax.records import Passage
from xqg_jax.tokenizers import Tokenizer

Side = Literal["query", "passage"]
SIDES = ("query", "passage")

_ACTIVATIONS = {"identity": lambda x: x, "tanh": jnp.tanh}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProjectionConfig:
  """A dense layer after pooling, as sentence-transformers' `Dense`.

  Attributes:
    size: the length of an embedding.
    use_bias: whether a bias is added.
    activation: "identity" or "tanh".
  """

  size: int
  use_bias: bool = True
  activation: str = "identity"

  def __post_init__(self):
    if self.size < 1:
      raise InputError(
        f"the projection's size is {self.size}", mend="give it 1 or more"
      )
    if self.activation not in _ACTIVATIONS:
      raise InputError(
        f"the projection's activation is {self.activation!r}",
        mend=f"choose {' or '.join(map(repr, _ACTIVATIONS))}",
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DualEncoderConfig:
  """How texts become embeddings.

  Attributes:
    pooling: `cls` takes the first token's hidden state, `mean` the average.
    normalize: whether embeddings have unit length.
    query_prefix: put before every question and generated query.
    passage_prefix: put before every passage.
    query_length: tokens of a query, special tokens included; more are cut.
    passage_length: the same for a passage.
    projection: the layer between pooling and normalisation; None: no layer.
    share_encoders: whether queries and passages have the same parameters.
  """

  pooling: str
  normalize: bool
  query_prefix: str = ""
  passage_prefix: str = ""
  query_length: int = 32
  passage_length: int = 128
  projection: ProjectionConfig | None = None
  share_encoders: bool = True

  def __post_init__(self):
    if self.pooling not in ("cls", "mean"):
      raise InputError(
        f"pooling is {self.pooling!r}", mend="choose 'cls' or 'mean'"
      )
    for name in ("query_length", "passage_length"):
      if getattr(self, name) < 3:
        raise InputError(
          f"{name} is {getattr(self, name)}", mend="give it 3 tokens or more"
        )

  def to_side(self, side: Side | None) -> Side | None:
    """The side whose parameters embed a text; None where both share them."""
    return None if self.share_encoders else side


# ------------------------------------------------------------------- networks


class Projection(nn.Module):
  """A dense layer with an activation, in fp32."""

  config: ProjectionConfig

  @nn.compact
  def __call__(
    self, x: Float[Array, "*batch inputs"]
  ) -> Float[Array, "*batch outputs"]:
    """Maps `[..., inputs]` to `[..., size]`."""
    config = self.config
    kernel = partitioning.param_with_axes(
      "kernel",
      nn.initializers.lecun_normal(),
      (x.shape[-1], config.size),
      jnp.float32,
      axes=("embed", "projection"),
    )
    y = jnp.matmul(x, kernel, precision=jax.lax.Precision.HIGHEST)
    if config.use_bias:
      y += partitioning.param_with_axes(
        "bias",
        nn.initializers.zeros,
        (config.size,),
        jnp.float32,
        axes=("projection",),
      )
    return _ACTIVATIONS[config.activation](y)


class TextEncoder(nn.Module):
  """One side: a transformer, pooling, projection and normalisation."""

  encoder: nn.Module
  config: DualEncoderConfig

  @nn.compact
  def __call__(
    self,
    tokens: Int[Array, "rows length"],
    segment_ids: Int[Array, "rows length"],
    positions: Int[Array, "rows length"],
    *,
    num_segments: int = 1,
    deterministic: bool = True,
  ) -> Float[Array, "rows num_segments dim"]:
    """Embeds the texts of packed rows in fp32; zeros where there is none."""
    rows = tokens, segment_ids, positions
    if self._reads_first_tokens and deterministic:
      columns, is_text = find_first_tokens(
        segment_ids, positions, num_segments=num_segments
      )
      hidden = self.encoder(*rows, kept=columns).astype(jnp.float32)
      vectors = jnp.where(is_text[..., None], hidden, 0.0)
    else:
      hidden = self.encoder(*rows, deterministic=deterministic)
      vectors = pool_segments(
        hidden,
        segment_ids,
        positions,
        pooling=self.config.pooling,
        num_segments=num_segments,
      )
    if self.config.projection is not None:
      projection = Projection(self.config.projection, name="projection")
      # A bias would give absent texts a vector.
      segments = jnp.arange(1, num_segments + 1)
      # [rows, length] -> [rows, num_segments, 1]
      is_text = jnp.any(
        segment_ids[:, None] == segments[:, None], axis=-1, keepdims=True
      )
      vectors = jnp.where(is_text, projection(vectors), 0.0)
    return normalize_embeddings(vectors) if self.config.normalize else vectors

  @property
  def _reads_first_tokens(self) -> bool:
    """Whether the last layer need not be computed for other tokens."""
    is_bert = isinstance(self.encoder, BertEncoder)
    return is_bert and self.config.pooling == "cls"


class SeparateEncoders(nn.Module):
  """Two sides with parameters of their own, to make them and name their axes.

  A text is embedded by one side's `TextEncoder`, not by this.
  """

  query_encoder: TextEncoder
  passage_encoder: TextEncoder

  def __call__(self, *rows: Int[Array, "rows length"]) -> tuple[Array, Array]:
    """Embeds the same rows by both."""
    return self.query_encoder(*rows), self.passage_encoder(*rows)


def make_network(
  encoder: nn.Module, config: DualEncoderConfig
) -> TextEncoder | SeparateEncoders:
  """The module that has a dual encoder's whole tree of parameters.

  For `init_params`, `param_shapes` and `param_axes`.

  Args:
    encoder: the transformer.
    config: says whether there are one or two, and with which projection.
  """
  if config.share_encoders:
    return TextEncoder(encoder, config)
  # Linen would share one instance's parameters.
  return SeparateEncoders(
    TextEncoder(encoder.clone(), config), TextEncoder(encoder.clone(), config)
  )


def side_name(side: Side) -> str:
  """The key of a side's parameters, and the name of its folder.

  >>> side_name("query")
  'query_encoder'
  """
  return f"{side}_encoder"


# --------------------------------------------------------------- dual encoders


@dataclasses.dataclass(frozen=True, eq=False)
class DualEncoder:
  """A dual encoder ready for use: module, parameters, tokenizer, pooling.

  `module` is the transformer of either side. `fingerprint` says which vectors
  it makes; stores and indices carry it.
  """

  module: nn.Module
  params: Mapping[str, Any]
  config: DualEncoderConfig
  tokenizer: Tokenizer
  fingerprint: str

  @property
  def dim(self) -> int:
    """The length of an embedding."""
    projection = self.config.projection
    return projection.size if projection else get_width(self.module.config)

  def format_query(self, query: str) -> str:
    """The text that is tokenised for a query."""
    return self.config.query_prefix + query

  def format_passage(self, passage: Passage) -> str:
    """The text that is tokenised for a passage: its title, then its text."""
    words = [passage.title, passage.text] if passage.title else [passage.text]
    return self.config.passage_prefix + " ".join(words)

  def embed(
    self,
    params: Mapping[str, Any],
    tokens: Int[Array, "rows length"],
    segment_ids: Int[Array, "rows length"],
    positions: Int[Array, "rows length"],
    *,
    side: Side | None,
    num_segments: int,
    dropout_rng: Array | None = None,
  ) -> Float[Array, "rows num_segments dim"]:
    """Embeds the texts of packed rows; pure, so it can be jitted.

    Args:
      params: the parameters, given so that they can be trained or sharded.
      tokens: token ids.
      segment_ids: 1 to `num_segments` for the texts of a row, 0 for padding.
      positions: the place of a token in its text, from 0.
      side: what the texts are, questions and generated queries ("query") or
        passages; None will do where both sides share their parameters.
      num_segments: texts per row.
      dropout_rng: a key turns dropout on.

    Returns:
      fp32 embeddings; zeros where a row has no such text.
    """
    if not self.config.share_encoders:
      params = params[side_name(side)]
    return TextEncoder(self.module, self.config).apply(
      {"params": params},
      tokens,
      segment_ids,
      positions,
      num_segments=num_segments,
      deterministic=dropout_rng is None,
      rngs=None if dropout_rng is None else {"dropout": dropout_rng},
    )


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
    "model": get_constants(model_config),
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
      f"{get_vocabulary_name(model)} has {model.vocab_size} rows",
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
