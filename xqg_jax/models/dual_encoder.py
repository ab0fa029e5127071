"""A dual encoder: one transformer for queries and passages, and its pooling."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from xqg_jax import files
from xqg_jax.errors import InputError
from xqg_jax.models.bert import BertConfig, BertEncoder
from xqg_jax.models.parameters import params_fingerprint
from xqg_jax.records import Passage
from xqg_jax.tokenizers import Tokenizer

Pooling = Literal["cls", "mean"]

# The sizes that change vectors although parameters have equal shapes.
_MODEL_FIELDS = (
  "model_type",
  "num_attention_heads",
  "layer_norm_eps",
  "pad_token_id",
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
  """

  pooling: str
  normalize: bool
  query_prefix: str = ""
  passage_prefix: str = ""
  query_length: int = 32
  passage_length: int = 128

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


def pool_segments(
  hidden: Float[Array, "rows length dim"],
  segment_ids: Int[Array, "rows length"],
  positions: Int[Array, "rows length"],
  *,
  pooling: Pooling,
  num_segments: int,
) -> Float[Array, "rows num_segments dim"]:
  """Pools every text of packed rows, in fp32.

  Args:
    hidden: the encoder's last hidden state.
    segment_ids: 1 to `num_segments`; 0 is padding.
    positions: the place of a token in its text.
    pooling: `cls` takes the token at position 0, `mean` averages all.
    num_segments: texts per row; an absent text pools to zeros.

  Returns:
    The pooled vectors, segment 1 first.

  >>> hidden = jnp.array([[[1.0], [3.0], [5.0], [9.0]]])
  >>> segment_ids = jnp.array([[1, 1, 2, 0]])
  >>> positions = jnp.array([[0, 1, 0, 0]])
  >>> pool_segments(
  ...   hidden, segment_ids, positions, pooling="mean", num_segments=3
  ... ).tolist()
  [[[2.0], [5.0], [0.0]]]
  """
  segments = jnp.arange(1, num_segments + 1)
  # [rows, length] -> [rows, num_segments, length]
  taken = segment_ids[:, None, :] == segments[:, None]
  if pooling == "cls":
    taken &= (positions == 0)[:, None, :]
  weights = taken.astype(jnp.float32)
  # [rows, length, dim] -> [rows, num_segments, dim]
  sums = jnp.einsum(
    "rsl,rld->rsd",
    weights,
    hidden.astype(jnp.float32),
    precision=jax.lax.Precision.HIGHEST,
  )
  counts = jnp.sum(weights, axis=-1, keepdims=True)
  return sums / jnp.maximum(counts, 1.0)


def normalize_embeddings(
  embeddings: Float[Array, "*batch dim"],
) -> Float[Array, "*batch dim"]:
  """Scales vectors to unit length; zeros stay zeros, with a zero gradient.

  >>> normalize_embeddings(jnp.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
  [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
  """
  squares = jnp.sum(jnp.square(embeddings), axis=-1, keepdims=True)
  return embeddings / jnp.sqrt(jnp.maximum(squares, 1e-24))


@dataclasses.dataclass(frozen=True, eq=False)
class DualEncoder:
  """A dual encoder ready for use: module, parameters, tokenizer, pooling.

  `fingerprint` says which vectors it makes; stores and indices carry it.
  """

  module: BertEncoder
  params: Mapping[str, Any]
  config: DualEncoderConfig
  tokenizer: Tokenizer
  fingerprint: str

  @property
  def dim(self) -> int:
    """The length of an embedding."""
    return self.module.config.hidden_size

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
    num_segments: int,
    dropout_rng: Array | None = None,
  ) -> Float[Array, "rows num_segments dim"]:
    """Embeds the texts of packed rows; pure, so it can be jitted.

    Args:
      params: the parameters, given so that they can be trained or sharded.
      tokens: token ids.
      segment_ids: 1 to `num_segments` for the texts of a row, 0 for padding.
      positions: the place of a token in its text, from 0.
      num_segments: texts per row.
      dropout_rng: a key turns dropout on.

    Returns:
      fp32 embeddings; zeros where a row has no such text.
    """
    hidden = self.module.apply(
      {"params": params},
      tokens,
      segment_ids,
      positions,
      deterministic=dropout_rng is None,
      rngs=None if dropout_rng is None else {"dropout": dropout_rng},
    )
    pooled = pool_segments(
      hidden,
      segment_ids,
      positions,
      pooling=self.config.pooling,
      num_segments=num_segments,
    )
    return normalize_embeddings(pooled) if self.config.normalize else pooled


def make_dual_encoder(
  *,
  model_config: BertConfig,
  params: Mapping[str, Any],
  config: DualEncoderConfig,
  tokenizer: Tokenizer,
  dtype: Any = jnp.float32,
) -> DualEncoder:
  """Joins the parts of a dual encoder and takes its fingerprint.

  Args:
    model_config: the encoder's sizes.
    params: its parameters.
    config: pooling, prefixes and lengths.
    tokenizer: its tokenizer.
    dtype: of matrix products; parameters stay as they are.

  Raises:
    InputError: the tokenizer or the lengths exceed the model's tables.
  """
  _check_fit(model_config, config, tokenizer)
  identity = {
    "params": params_fingerprint(params),
    "tokenizer": tokenizer.fingerprint,
    "model": {name: getattr(model_config, name) for name in _MODEL_FIELDS},
    "pooling": config.pooling,
    "normalize": config.normalize,
    "query_prefix": config.query_prefix,
    "passage_prefix": config.passage_prefix,
  }
  return DualEncoder(
    module=BertEncoder(model_config, dtype),
    params=params,
    config=config,
    tokenizer=tokenizer,
    fingerprint=files.fingerprint(identity),
  )


def _check_fit(
  model: BertConfig, config: DualEncoderConfig, tokenizer: Tokenizer
) -> None:
  if tokenizer.vocab_size > model.vocab_size:
    raise InputError(
      f"the tokenizer has {tokenizer.vocab_size} tokens, but "
      f"embeddings.word_embeddings has {model.vocab_size} rows",
      mend="take tokenizer and weights from one model",
    )
  for name in ("query_length", "passage_length"):
    length = getattr(config, name)
    if length > model.max_length:
      raise InputError(
        f"{name} is {length}, but the model has {model.max_length} positions",
        mend=f"set {name} to {model.max_length} or less",
      )
