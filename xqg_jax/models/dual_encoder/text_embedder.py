"""Embedding of packed rows of texts by given parameters: a pure function."""

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

import flax.linen as nn
from jaxtyping import Array, Float, Int

from xqg_jax.models.dual_encoder.config import (
  DualEncoderConfig,
  Side,
  side_name,
)
from xqg_jax.models.dual_encoder.network import TextEncoder
from xqg_jax.models.encoder_families import get_width


@dataclasses.dataclass(frozen=True)
class TextEmbedder:
  """How a dual encoder embeds; equal ones compute the same programs.

  Attributes:
    module: the transformer of either side.
    config: pooling, projection, and whether the sides share parameters.
  """

  module: nn.Module
  config: DualEncoderConfig

  @property
  def dim(self) -> int:
    """The length of an embedding."""
    projection = self.config.projection
    return projection.size if projection else get_width(self.module.config)

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
      if side is None:
        raise ValueError("query or passage? Each has an encoder of its own")
      params = params[side_name(side)]
    vectors = TextEncoder(self.module, self.config).apply(
      {"params": params},
      tokens,
      segment_ids,
      positions,
      num_segments=num_segments,
      deterministic=dropout_rng is None,
      rngs=None if dropout_rng is None else {"dropout": dropout_rng},
    )
    return cast(Array, vectors)  # a pair only where `mutable` is given
