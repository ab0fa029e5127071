"""mT5 and T5 1.1 in Flax, with the parameter names of T5X's stock network.

A tree trained by `t5x.examples.t5.network` is ours without renaming:
`token_embedder/embedding`, `encoder/layers_0/attention/query/kernel`,
`decoder/logits_dense/kernel` and so on, kernels two-dimensional, and the same
logical axes in the `params_axes` collection.

Choices worth knowing:
  - Masks come from segment ids alone: a position sees the positions of its own
    segment; 0 is padding. One sequence a row is the segment 1, so packed and
    padded rows take the same way. Segments are contiguous, so the difference of
    two row positions is their distance within the segment, which is all that
    relative position biases need.
  - T5X drops attention weights per key, alike for all queries. That equals
    dropping whole value vectors, which leaves the fused attention usable.
  - Parameters are float32; products run in `T5Config.dtype`; norms, softmax and
    logits are float32. float16 is refused: mT5's activations exceed its range.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from xqg_jax.models.t5.config import MT5_SIZES, T5Config
from xqg_jax.models.t5.conversion import params_from_hf, params_to_hf
from xqg_jax.models.t5.encoder import Encoder, T5Encoder, segment_mask
from xqg_jax.models.t5.layers import (
  MLP,
  Attention,
  Dense,
  Embed,
  KeysValues,
  RelativePositionBiases,
  RMSNorm,
  row_biases,
)
from xqg_jax.models.t5.output import output_kernel, project

__all__ = [
  "MT5_SIZES",
  "T5",
  "T5Config",
  "T5Encoder",
  "params_from_hf",
  "params_to_hf",
]


class DecoderLayer(nn.Module):
  """Self-attention, attention to the encoder and MLP, each with residual."""

  config: T5Config

  def setup(self):
    cfg = self.config
    self.pre_self_attention_layer_norm = RMSNorm(cfg)
    self.self_attention = Attention(cfg)
    self.pre_cross_attention_layer_norm = RMSNorm(cfg)
    self.encoder_decoder_attention = Attention(cfg)
    self.pre_mlp_layer_norm = RMSNorm(cfg)
    self.mlp = MLP(cfg)
    self.dropout = nn.Dropout(cfg.dropout_rate, broadcast_dims=(-2,))

  def __call__(
    self,
    x: Float[Array, "b q d"],
    encoded: Float[Array, "b k d"],
    bias: Float[Array, "1 h q q"],
    self_mask: Bool[Array, "b 1 q q"],
    cross_mask: Bool[Array, "b 1 q k"],
    *,
    deterministic: bool,
  ) -> Float[Array, "b q d"]:
    y = self.pre_self_attention_layer_norm(x)
    y = self.self_attention(y, y, bias, self_mask, deterministic=deterministic)
    x = x + self.dropout(y, deterministic=deterministic)
    y = self.encoder_decoder_attention(
      self.pre_cross_attention_layer_norm(x),
      encoded,
      None,
      cross_mask,
      deterministic=deterministic,
    )
    x = x + self.dropout(y, deterministic=deterministic)
    y = self.mlp(self.pre_mlp_layer_norm(x), deterministic=deterministic)
    return x + self.dropout(y, deterministic=deterministic)

  def step(
    self,
    x: Float[Array, "p s d"],
    cache: KeysValues,
    cross: KeysValues,
    positions: Int[Array, " p"],
    bias: Float[Array, "p h length"],
    cross_mask: Bool[Array, "p k"],
  ) -> tuple[Float[Array, "p s d"], KeysValues]:
    y = self.pre_self_attention_layer_norm(x)
    y, cache = self.self_attention.self_step(y, cache, positions, bias)
    x = x + y
    y = self.pre_cross_attention_layer_norm(x)
    x = x + self.encoder_decoder_attention.cross_step(y, cross, cross_mask)
    return x + self.mlp(self.pre_mlp_layer_norm(x)), cache


class Decoder(nn.Module):
  """The decoder stack and, unless tied to the embedding, the output layer."""

  config: T5Config

  def setup(self):
    cfg = self.config
    self.relpos_bias = RelativePositionBiases(cfg, bidirectional=False)
    self.layers = [DecoderLayer(cfg) for _ in range(cfg.num_decoder_layers)]
    self.decoder_norm = RMSNorm(cfg)
    self.dropout = nn.Dropout(cfg.dropout_rate, broadcast_dims=(-2,))
    if not cfg.logits_via_embedding:
      self.logits_dense = Dense(
        cfg.vocab_size,
        ("embed", "vocab"),
        jnp.dtype(cfg.dtype),
        out_dtype=jnp.float32,
      )

  def __call__(
    self,
    embedded: Float[Array, "b q d"],
    encoded: Float[Array, "b k d"],
    segment_ids: Int[Array, "b q"],
    encoder_segment_ids: Int[Array, "b k"],
    *,
    deterministic: bool,
  ) -> Float[Array, "b q d"]:
    length = embedded.shape[1]
    bias = row_biases(self.relpos_bias, length)
    causal = jnp.tril(jnp.ones((length, length), bool))
    self_mask = segment_mask(segment_ids, segment_ids) & causal
    cross_mask = segment_mask(segment_ids, encoder_segment_ids)
    x = self.dropout(embedded, deterministic=deterministic)
    for layer in self.layers:
      x = layer(
        x, encoded, bias, self_mask, cross_mask, deterministic=deterministic
      )
    x = self.decoder_norm(x)
    return self.dropout(x, deterministic=deterministic)

  def keys_values(self, encoded: Float[Array, "p k d"]) -> list[KeysValues]:
    return [
      layer.encoder_decoder_attention.keys_values(encoded)
      for layer in self.layers
    ]

  def step(
    self,
    embedded: Float[Array, "p s d"],
    cache: list[KeysValues],
    cross: list[KeysValues],
    cross_mask: Bool[Array, "p k"],
    positions: Int[Array, " p"],
  ) -> tuple[Float[Array, "p s d"], list[KeysValues]]:
    length = cache[0][0].shape[-2]
    # [heads, prompts, length] -> [prompts, heads, length]
    bias = self.relpos_bias(jnp.arange(length) - positions[:, None])
    bias = jnp.swapaxes(bias, 0, 1)
    x, new_cache = embedded, []
    for layer, kept, keys_values in zip(self.layers, cache, cross, strict=True):
      x, kept = layer.step(x, kept, keys_values, positions, bias, cross_mask)
      new_cache.append(kept)
    return self.decoder_norm(x), new_cache


class T5(nn.Module):
  """The encoder-decoder network.

  `__call__` is the whole teacher-forced network; `decode_hidden` stops before
  the output layer, so that a loss may take the vocabulary in chunks; `encode`,
  `cross_keys_values`, `decode_step` and `logits` are the parts of decoding.
  """

  config: T5Config

  def setup(self):
    """Declares the parts under T5X's names."""
    self.token_embedder = Embed(self.config)
    self.encoder = Encoder(self.config)
    self.decoder = Decoder(self.config)

  def __call__(
    self,
    encoder_input_tokens: Int[Array, "b k"],
    decoder_input_tokens: Int[Array, "b q"],
    decoder_target_tokens: Int[Array, "b q"],
    encoder_segment_ids: Int[Array, "b k"] | None = None,
    decoder_segment_ids: Int[Array, "b q"] | None = None,
    *,
    deterministic: bool = True,
  ) -> Float[Array, "b q vocab"]:
    """Logits in float32 of each target token."""
    hidden = self.decode_hidden(
      encoder_input_tokens,
      decoder_input_tokens,
      decoder_target_tokens,
      encoder_segment_ids,
      decoder_segment_ids,
      deterministic=deterministic,
    )
    return self.logits(hidden)

  def decode_hidden(
    self,
    encoder_input_tokens: Int[Array, "b k"],
    decoder_input_tokens: Int[Array, "b q"],
    decoder_target_tokens: Int[Array, "b q"],
    encoder_segment_ids: Int[Array, "b k"] | None = None,
    decoder_segment_ids: Int[Array, "b q"] | None = None,
    *,
    deterministic: bool = True,
  ) -> Float[Array, "b q d"]:
    """Decoder states from which `logits` predicts the target tokens.

    Args:
      encoder_input_tokens: prompts, padded with `pad_id`.
      decoder_input_tokens: targets shifted right, first `pad_id`.
      decoder_target_tokens: targets; only their padding is looked at.
      encoder_segment_ids: 1, 2, ... of packed prompts, 0 for padding; None
        means one prompt a row.
      decoder_segment_ids: the same of the targets.
      deterministic: False applies dropout and needs the rng `dropout`.
    """
    if encoder_segment_ids is None:
      encoder_segment_ids = self.to_segment_ids(encoder_input_tokens)
    if decoder_segment_ids is None:
      decoder_segment_ids = self.to_segment_ids(decoder_target_tokens)
    encoded = self.encode(
      encoder_input_tokens, encoder_segment_ids, deterministic=deterministic
    )
    return self.decoder(
      self.token_embedder(decoder_input_tokens),
      encoded,
      decoder_segment_ids,
      encoder_segment_ids,
      deterministic=deterministic,
    )

  def to_segment_ids(self, tokens: Int[Array, "b l"]) -> Int[Array, "b l"]:
    """Segment ids of rows that hold one text each: 1, or 0 at padding."""
    return (tokens != self.config.pad_id).astype(jnp.int32)

  def encode(
    self,
    tokens: Int[Array, "b l"],
    segment_ids: Int[Array, "b l"] | None = None,
    *,
    deterministic: bool = True,
  ) -> Float[Array, "b l d"]:
    """Encoder states; `segment_ids` None means one text a row."""
    if segment_ids is None:
      segment_ids = self.to_segment_ids(tokens)
    return self.encoder(
      self.token_embedder(tokens), segment_ids, deterministic=deterministic
    )

  def cross_keys_values(
    self, encoded: Float[Array, "p k d"]
  ) -> list[KeysValues]:
    """Keys and values of the prompts for each decoder layer."""
    return self.decoder.keys_values(encoded)

  def read_prompts(
    self, tokens: Int[Array, "p k"]
  ) -> tuple[list[KeysValues], Bool[Array, " p"]]:
    """`cross_keys_values` of prompts, and whether all states were finite."""
    encoded = self.encode(tokens)
    is_finite = jnp.isfinite(encoded).all(axis=(1, 2))
    return self.cross_keys_values(encoded), is_finite

  def empty_memory(self, num_prompts: int, length: int) -> list[KeysValues]:
    """As `cross_keys_values`, of prompts without tokens."""
    cfg = self.config
    values = jnp.zeros(
      (num_prompts, cfg.num_heads, length, cfg.head_dim), jnp.dtype(cfg.dtype)
    )
    keys = jnp.swapaxes(values, 2, 3)
    return [(keys, values)] * cfg.num_decoder_layers

  def lengthen_memory(
    self, memory: list[KeysValues], spare: int
  ) -> list[KeysValues]:
    """Adds padding behind the keys and values of prompts."""
    none = (0, 0)
    return [
      (
        jnp.pad(key, (none, none, none, (0, spare))),
        jnp.pad(value, (none, none, (0, spare), none)),
      )
      for key, value in memory
    ]

  def output_kernel(
    self, params: Mapping[str, Any], token_ids: Int[Array, " n"] | None
  ) -> Float[Array, "d n"]:
    """As `output.output_kernel`."""
    return output_kernel(params, self.config, token_ids)

  def project(
    self, hidden: Float[Array, "*b d"], kernel: Float[Array, "d n"]
  ) -> Float[Array, "*b n"]:
    """As `output.project`."""
    return project(hidden, kernel, self.config)

  def empty_cache(
    self, num_prompts: int, num_samples: int, length: int
  ) -> list[KeysValues]:
    """The decoder's cache before the first step, for `length` tokens."""
    cfg = self.config
    shape = (num_prompts, num_samples, cfg.num_heads, length, cfg.head_dim)
    zeros = jnp.zeros(shape, jnp.dtype(cfg.dtype))
    return [(zeros, zeros)] * cfg.num_decoder_layers

  def decode_step(
    self,
    tokens: Int[Array, "p s"],
    cache: list[KeysValues],
    cross: list[KeysValues],
    cross_mask: Bool[Array, "p k"],
    positions: Int[Array, " p"],
  ) -> tuple[Float[Array, "p s d"], list[KeysValues]]:
    """One step of decoding: the states that predict the next tokens.

    Prompts may be at different positions, the samples of a prompt not. What a
    row gets does not depend on the others, to the last bit where the products
    do not.

    Args:
      tokens: the newest token of each sample of each prompt.
      cache: keys and values of earlier tokens, from `empty_cache` or the step
        before; what it holds at `positions` and behind is overwritten or not
        looked at.
      cross: from `cross_keys_values`.
      cross_mask: where the prompts are not padding.
      positions: number of tokens before `tokens`, less than the cache's length.

    Returns:
      Decoder states in the compute dtype, and the cache with this step in it.
    """
    return self.decoder.step(
      self.token_embedder(tokens), cache, cross, cross_mask, positions
    )

  def logits(self, hidden: Float[Array, "*b d"]) -> Float[Array, "*b vocab"]:
    """Projects decoder states to the vocabulary, in float32."""
    cfg = self.config
    if cfg.logits_via_embedding:
      return self.token_embedder.attend(hidden) / jnp.sqrt(cfg.emb_dim)
    return self.decoder.logits_dense(hidden)
