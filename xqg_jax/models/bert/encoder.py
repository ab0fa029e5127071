"""BERT and XLM-R encoders with the parameters of Hugging Face checkpoints.

One module covers mBERT, MiniLM, multilingual-e5 (`bert`) and XLM-R
(`xlm-roberta`, `roberta`), which differ only in where positions start.
Parameters, layer norms and softmax are fp32; matrix products run in `dtype`.
Several texts may share a row: attention stays within equal segment ids.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import partitioning
from jaxtyping import Array, Bool, Float, Int, Shaped

from xqg_jax.models.bert.config import BertConfig
from xqg_jax.models.bert.conversion import params_from_hf, params_to_hf
from xqg_jax.models.layers.affine import affine
from xqg_jax.models.layers.attention import attend
from xqg_jax.models.layers.dropout import Dropout
from xqg_jax.models.layers.gelu import gelu
from xqg_jax.runtime.sharding import split_rows

__all__ = [
  "BertConfig",
  "BertEncoder",
  "join_projections",
  "params_from_hf",
  "params_to_hf",
]

DType = Any


class Dense(nn.Module):
  """An affine map with logical axes; the fp32 kernel is [inputs, outputs]."""

  features: int
  axes: tuple[str, str]
  init_scale: float
  dtype: DType

  @nn.compact
  def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "..."]:
    """Maps `[..., inputs]` to `[..., features]`."""
    kernel = partitioning.param_with_axes(
      "kernel",
      nn.initializers.normal(self.init_scale),
      (x.shape[-1], self.features),
      jnp.float32,
      axes=self.axes,
    )
    bias = partitioning.param_with_axes(
      "bias",
      nn.initializers.zeros,
      (self.features,),
      jnp.float32,
      axes=self.axes[1:],
    )
    return affine(x, kernel, bias)


class LayerNorm(nn.Module):
  """Layer normalisation in fp32, by two passes as torch does."""

  epsilon: float
  dtype: DType

  @nn.compact
  def __call__(
    self, x: Float[Array, "*batch embed"]
  ) -> Float[Array, "*batch embed"]:
    """Normalises the last axis and returns `dtype`."""
    scale, bias = (
      partitioning.param_with_axes(
        name, init, (x.shape[-1],), jnp.float32, axes=("embed",)
      )
      for name, init in (
        ("scale", nn.initializers.ones),
        ("bias", nn.initializers.zeros),
      )
    )
    x = x.astype(jnp.float32)
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    normed = centred * jax.lax.rsqrt(variance + self.epsilon)
    return (normed * scale + bias).astype(self.dtype)


class Embeddings(nn.Module):
  """Sums word, position and (all zero) token-type embeddings, normalised."""

  config: BertConfig
  dtype: DType

  def _table(
    self, name: str, rows: int, axis: str
  ) -> Float[Array, "rows embed"]:
    return partitioning.param_with_axes(
      name,
      nn.initializers.normal(self.config.initializer_range),
      (rows, self.config.hidden_size),
      jnp.float32,
      axes=(axis, "embed"),
    )

  @nn.compact
  def __call__(
    self,
    tokens: Int[Array, "batch length"],
    positions: Int[Array, "batch length"],
    *,
    deterministic: bool,
  ) -> Float[Array, "batch length embed"]:
    """Looks up the embeddings of the tokens at their positions."""
    config = self.config
    words = self._table("word", config.vocab_size, "vocab")
    places = self._table(
      "position", config.max_position_embeddings, "positions"
    )
    # Every token is of type 0: one row, added before the look-up.
    if config.type_vocab_size:
      types = self._table("token_type", config.type_vocab_size, "token_types")
      places = places + types[0]
    # [batch, length] -> [batch, length, embed]
    x = split_rows(words[tokens] + places[positions + config.position_offset])
    x = LayerNorm(config.layer_norm_eps, self.dtype, name="layer_norm")(x)
    return Dropout(config.hidden_dropout_prob)(x, deterministic)


class SelfAttention(nn.Module):
  """Multi-head self-attention.

  Dropout in training takes whole value vectors, alike for all queries (as T5X
  does), so that the fused attention of every platform stays usable.
  """

  config: BertConfig
  dtype: DType
  join_projections: bool = False

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "batch length embed"],
    mask: Bool[Array, "batch 1 queries length"],
    *,
    deterministic: bool,
    kept: Int[Array, "batch queries"] | None = None,
  ) -> Float[Array, "batch queries embed"]:
    """Attends where `mask` is true; from the tokens `kept` only, if given."""
    config, embed = self.config, self.config.hidden_size
    init, dtype = config.initializer_range, self.dtype

    def project(name: str) -> Float[Array, "batch length heads kv"]:
      dense = Dense(embed, ("embed", "joined_kv"), init, dtype, name=name)
      # [batch, length, embed] -> [batch, length, heads, kv]
      return dense(x).reshape(*x.shape[:2], config.num_attention_heads, -1)

    dropout = Dropout(config.attention_probs_dropout_prob, broadcast_dims=(-1,))
    if self.join_projections:
      joined = Dense(3 * embed, ("embed", "joined_kv"), init, dtype, name="qkv")
      query, key, value = (
        y.reshape(*x.shape[:2], config.num_attention_heads, -1)
        for y in jnp.split(joined(x), 3, axis=-1)
      )
    else:
      value, query, key = map(project, ("value", "query", "key"))
    value = dropout(value, deterministic)
    if kept is not None:
      query = _take(query, kept)
    y = attend(query, key, value, mask=mask, scale=query.shape[-1] ** -0.5)
    out = Dense(embed, ("joined_kv", "embed"), init, dtype, name="out")
    return out(y.reshape(*y.shape[:2], embed))


class EncoderLayer(nn.Module):
  """Attention, then a feed-forward network, each normalised afterwards."""

  config: BertConfig
  dtype: DType
  join_projections: bool = False

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "batch length embed"],
    mask: Bool[Array, "batch 1 queries length"],
    *,
    deterministic: bool,
    kept: Int[Array, "batch queries"] | None = None,
  ) -> Float[Array, "batch queries embed"]:
    """Applies the layer; returns the tokens `kept` only, if given."""
    config, dtype = self.config, self.dtype
    init, eps = config.initializer_range, config.layer_norm_eps
    dropout = Dropout(config.hidden_dropout_prob)
    attention = SelfAttention(
      config, dtype, self.join_projections, name="attention"
    )
    y = attention(x, mask, deterministic=deterministic, kept=kept)
    if kept is not None:
      x = _take(x, kept)
    x = x + dropout(y, deterministic)
    x = LayerNorm(eps, dtype, name="attention_layer_norm")(x)
    wi = Dense(
      config.intermediate_size, ("embed", "mlp"), init, dtype, name="wi"
    )
    wo = Dense(config.hidden_size, ("mlp", "embed"), init, dtype, name="wo")
    x = x + dropout(wo(gelu(wi(x))), deterministic)
    return LayerNorm(eps, dtype, name="mlp_layer_norm")(x)


def _take(
  x: Shaped[Array, "batch length *rest"], columns: Int[Array, "batch kept"]
) -> Shaped[Array, "batch kept *rest"]:
  """The tokens of each row that stand in `columns`."""
  columns = columns.reshape(*columns.shape, *[1] * (x.ndim - 2))
  return jnp.take_along_axis(x, columns, axis=1)


class BertEncoder(nn.Module):
  """The encoder, from tokens to the last hidden state.

  Attributes:
    config: the sizes.
    dtype: of matrix products and activations; parameters are always fp32.
    join_projections: one product for queries, keys and values, which is faster
      on CPU; takes what `join_projections` makes of the parameters.
  """

  selects_tokens: ClassVar[bool] = True

  config: BertConfig
  dtype: DType = jnp.float32
  join_projections: bool = False

  @nn.compact
  def __call__(
    self,
    tokens: Int[Array, "batch length"],
    segment_ids: Int[Array, "batch length"],
    positions: Int[Array, "batch length"],
    *,
    deterministic: bool = True,
    kept: Int[Array, "batch kept"] | None = None,
  ) -> Float[Array, "batch _ embed"]:
    """Encodes rows of one or several texts.

    Args:
      tokens: token ids.
      segment_ids: the text that a token belongs to; 0 is padding. Tokens
        attend to tokens of their own text only.
      positions: the place of a token in its text, from 0.
      deterministic: false turns dropout on and needs the rng `dropout`.
      kept: the columns of each row whose hidden states are wanted; all when
        absent. The last layer then does little for the others.

    Returns:
      The last hidden state in `dtype`; without meaning at padding.
    """
    embeddings = Embeddings(self.config, self.dtype, name="embeddings")
    x = embeddings(tokens, positions, deterministic=deterministic)
    # [batch, length] -> [batch, 1, length, length]
    mask = (segment_ids[:, :, None] == segment_ids[:, None, :])[:, None]
    for index in range(self.config.num_hidden_layers):
      layer = EncoderLayer(
        self.config, self.dtype, self.join_projections, name=f"layers_{index}"
      )
      is_last = index + 1 == self.config.num_hidden_layers
      if is_last and kept is not None:
        # [batch, length, length] -> [batch, kept, length]
        mask = _take(mask[:, 0], kept)[:, None]
        x = layer(x, mask, deterministic=deterministic, kept=kept)
      else:
        x = layer(x, mask, deterministic=deterministic)
    return x


def join_projections(params: Mapping[str, Any]) -> dict[str, Any]:
  """The parameters of `BertEncoder` for `join_projections=True`.

  Kernels and biases of queries, keys and values, side by side.
  """
  joined = dict(params)
  for name in [name for name in params if name.startswith("layers_")]:
    attention = dict(params[name]["attention"])
    parts = [attention.pop(part) for part in ("query", "key", "value")]
    attention["qkv"] = jax.tree.map(
      lambda *arrays: jnp.concatenate(arrays, axis=-1), *parts
    )
    joined[name] = {**params[name], "attention": attention}
  return joined
