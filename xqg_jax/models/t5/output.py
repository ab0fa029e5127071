"""Output layer of T5, for all tokens or for some."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from xqg_jax.models.t5.config import T5Config


def output_kernel(
  params: Mapping[str, Any],
  config: T5Config,
  token_ids: Int[Array, " n"] | None = None,
) -> Float[Array, "d n"]:
  """The output layer's columns, or rows of the embedding that it is tied to.

  Args:
    params: of the whole network.
    config: of the network.
    token_ids: whose columns; None: of the whole vocabulary, and no copy.

  Returns:
    The columns in the compute dtype.
  """
  if config.logits_via_embedding:
    table = params["token_embedder"]["embedding"]
    kernel = (table if token_ids is None else table[token_ids]).T
  else:
    kernel = params["decoder"]["logits_dense"]["kernel"]
    if token_ids is not None:
      kernel = kernel[:, token_ids]
  return kernel.astype(config.dtype)


def project(
  hidden: Float[Array, "*b d"], kernel: Float[Array, "d n"], config: T5Config
) -> Float[Array, "*b n"]:
  """Logits in float32, as `T5.logits` computes them.

  Args:
    hidden: decoder states.
    kernel: from `output_kernel`.
    config: of the network.
  """
  logits = jnp.matmul(
    hidden.astype(kernel.dtype), kernel, preferred_element_type=jnp.float32
  )
  if config.logits_via_embedding:
    return logits / jnp.sqrt(config.emb_dim)
  return logits
