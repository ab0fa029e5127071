"""Dot-product attention, in a form for each platform."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from xqg_jax.models.layers.cpu.attention import attend_on_cpu
from xqg_jax.runtime.cpu_forms import by_platform


def attend(
  query: Float[Array, "batch queries heads kv"],
  key: Float[Array, "batch keys heads kv"],
  value: Float[Array, "batch keys heads kv"],
  *,
  mask: Bool[Array, "batch 1 queries keys"],
  bias: Float[Array, "1 heads queries keys"] | None = None,
  scale: float = 1.0,
) -> Float[Array, "batch queries heads kv"]:
  """Attends where `mask` is true, with fp32 logits and softmax.

  Where a query may see nothing at all, as in padding, the result has no
  meaning but is finite. On CUDA, cuDNN does what it can (16-bit inputs, mostly)
  and rounds `bias` to the dtype of the queries; XLA does the rest.

  Args:
    query: queries in the compute dtype.
    key: keys.
    value: values.
    mask: which keys a query sees.
    bias: added to the scaled logits, alike for the whole batch.
    scale: factor of the products of queries and keys.
  """

  def fused(query: Array, key: Array, value: Array) -> Array:
    return jax.nn.dot_product_attention(
      query, key, value, bias=bias, mask=mask, scale=scale
    )

  def by_cudnn(query: Array, key: Array, value: Array) -> Array:
    rounded = None if bias is None else bias.astype(query.dtype)
    return jax.nn.dot_product_attention(
      query,
      key,
      value,
      bias=rounded,
      mask=mask,
      scale=scale,
      implementation="cudnn",
    )

  def plain(query: Array, key: Array, value: Array) -> Array:
    shift = jnp.where(mask, 0.0 if bias is None else bias, -1e30)
    return attend_on_cpu(query, key, value, shift, scale)

  on_cuda = by_cudnn if _is_accepted(by_cudnn, query, key, value) else fused
  return by_platform(query, key, value, cpu=plain, cuda=on_cuda, default=fused)


def _is_accepted(
  attention: Callable[[Array, Array, Array], Array],
  query: Array,
  key: Array,
  value: Array,
) -> bool:
  """Whether cuDNN is there and jax passes such inputs and a gradient to it.

  jax has no other question for it: it depends on dtype, head size, lengths,
  GPU and version. Tracing the gradient costs no computation.
  """
  try:
    jax.eval_shape(
      lambda *inputs: jax.vjp(attention, *inputs)[0], query, key, value
    )
  except (NotImplementedError, RuntimeError, ValueError):
    return False
  return True
