"""Networks of a dual encoder: text encoder, projection, shared or apart."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import partitioning
from jaxtyping import Array, Float, Int

from xqg_jax.models.dual_encoder.config import (
  ACTIVATIONS,
  DualEncoderConfig,
  ProjectionConfig,
)
from xqg_jax.models.dual_encoder.pooling import (
  POOLINGS,
  find_first_tokens,
  normalize_embeddings,
  pool_segments,
)


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
    return ACTIVATIONS[config.activation](y)


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
    pooling = POOLINGS[self.config.pooling]
    return pooling.is_first_token and self.encoder.selects_tokens


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
