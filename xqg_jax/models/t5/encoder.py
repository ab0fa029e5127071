"""The encoder stack of mT5 and T5 1.1, in the network or on its own."""

from typing import ClassVar

import flax.linen as nn
from jaxtyping import Array, Bool, Float, Int

from xqg_jax.models.t5.config import T5Config
from xqg_jax.models.t5.layers import (
  MLP,
  Attention,
  Embed,
  RelativePositionBiases,
  RMSNorm,
  row_biases,
)


def segment_mask(
  queries: Int[Array, "b q"], keys: Int[Array, "b k"]
) -> Bool[Array, "b 1 q k"]:
  """Which keys a query sees: those of its own segment; 0 is padding."""
  same = queries[:, :, None] == keys[:, None, :]
  return (same & (keys > 0)[:, None, :])[:, None]


class EncoderLayer(nn.Module):
  """Self-attention and MLP, each added to the residual stream."""

  config: T5Config

  def setup(self):
    """Declares the parts under T5X's names."""
    cfg = self.config
    self.pre_attention_layer_norm = RMSNorm(cfg)
    self.attention = Attention(cfg)
    self.pre_mlp_layer_norm = RMSNorm(cfg)
    self.mlp = MLP(cfg)
    self.dropout = nn.Dropout(cfg.dropout_rate, broadcast_dims=(-2,))

  def __call__(
    self,
    x: Float[Array, "b l d"],
    bias: Float[Array, "1 h l l"],
    mask: Bool[Array, "b 1 l l"],
    *,
    deterministic: bool,
  ) -> Float[Array, "b l d"]:
    """Applies the layer."""
    normed = self.pre_attention_layer_norm(x)
    y = self.attention(normed, normed, bias, mask, deterministic=deterministic)
    x = x + self.dropout(y, deterministic=deterministic)
    y = self.mlp(self.pre_mlp_layer_norm(x), deterministic=deterministic)
    return x + self.dropout(y, deterministic=deterministic)


class Encoder(nn.Module):
  """The encoder stack, from embedded tokens."""

  config: T5Config

  def setup(self):
    """Declares the parts under T5X's names."""
    cfg = self.config
    self.relpos_bias = RelativePositionBiases(cfg, bidirectional=True)
    self.layers = [EncoderLayer(cfg) for _ in range(cfg.num_encoder_layers)]
    self.encoder_norm = RMSNorm(cfg)
    self.drop_inputs = nn.Dropout(cfg.dropout_rate, broadcast_dims=(-2,))
    self.drop_outputs = nn.Dropout(cfg.dropout_rate)

  def __call__(
    self,
    embedded: Float[Array, "b l d"],
    segment_ids: Int[Array, "b l"],
    *,
    deterministic: bool,
  ) -> Float[Array, "b l d"]:
    """The last hidden states; without meaning at padding."""
    bias = row_biases(self.relpos_bias, embedded.shape[1])
    mask = segment_mask(segment_ids, segment_ids)
    x = self.drop_inputs(embedded, deterministic=deterministic)
    for layer in self.layers:
      x = layer(x, bias, mask, deterministic=deterministic)
    x = self.encoder_norm(x)
    return self.drop_outputs(x, deterministic=deterministic)


class T5Encoder(nn.Module):
  """The encoder alone, as a dual encoder stands on it.

  Its parameters are those of `T5` without `decoder`, under the same names.
  """

  selects_tokens: ClassVar[bool] = False

  config: T5Config

  def setup(self):
    """Declares the parts under T5X's names."""
    self.token_embedder = Embed(self.config)
    self.encoder = Encoder(self.config)

  def __call__(
    self,
    tokens: Int[Array, "b l"],
    segment_ids: Int[Array, "b l"],
    positions: Int[Array, "b l"],
    *,
    deterministic: bool = True,
  ) -> Float[Array, "b l d"]:
    """Encodes rows of one or several texts.

    Args:
      tokens: token ids.
      segment_ids: the text that a token belongs to; 0 is padding.
      positions: not needed, since distances within a row are those within
        its texts.
      deterministic: False applies dropout and needs the rng `dropout`.

    Returns:
      The last hidden state; without meaning at padding.
    """
    del positions
    return self.encoder(
      self.token_embedder(tokens), segment_ids, deterministic=deterministic
    )
