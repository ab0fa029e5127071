"""The layers of T5 1.1, with the parameter names and logical axes of T5X."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.partitioning import param_with_axes
from flax.linen.spmd import with_logical_constraint
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from xqg_jax.models.layers.attention import attend
from xqg_jax.models.t5.config import T5Config
from xqg_jax.runtime.sharding import split_rows

# Keys and values of one attention; their layout is the using function's.
KeysValues = tuple[Float[Array, "..."], Float[Array, "..."]]

_KERNEL_INIT = nn.initializers.variance_scaling(
  1.0, "fan_in", "truncated_normal"
)


def _attention_init(scale: float) -> nn.initializers.Initializer:
  return nn.initializers.variance_scaling(scale, "fan_in", "normal")


class Dense(nn.Module):
  """A product with a two-dimensional kernel, without bias."""

  features: int
  axes: tuple[str, str]
  dtype: Any
  kernel_init: nn.initializers.Initializer = _KERNEL_INIT
  out_dtype: Any = None

  @nn.compact
  def __call__(self, x: Float[Array, "*b in"]) -> Float[Array, "*b out"]:
    """Multiplies in `dtype`; the result is in `out_dtype`, if that is set."""
    kernel = param_with_axes(
      "kernel",
      self.kernel_init,
      (x.shape[-1], self.features),
      jnp.float32,
      axes=self.axes,
    )
    return jnp.matmul(
      x.astype(self.dtype),
      kernel.astype(self.dtype),
      preferred_element_type=self.out_dtype,
    )


class RMSNorm(nn.Module):
  """Division by the root mean square, in float32; no mean, no bias."""

  config: T5Config

  @nn.compact
  def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """Normalises the last axis; the result is in the network's dtype."""
    scale = param_with_axes(
      "scale",
      nn.initializers.ones,
      (x.shape[-1],),
      jnp.float32,
      axes=("embed",),
    )
    x = x.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    y = x * jax.lax.rsqrt(mean_square + self.config.layer_norm_epsilon)
    return (y * scale).astype(jnp.dtype(self.config.dtype))


class Embed(nn.Module):
  """The token embedding table, which may also serve as output layer."""

  config: T5Config

  def setup(self):
    """Declares the parameters."""
    self.embedding = param_with_axes(
      "embedding",
      nn.initializers.normal(stddev=1.0),
      (self.config.vocab_size, self.config.emb_dim),
      jnp.float32,
      axes=("vocab", "embed"),
    )

  def __call__(self, tokens: Int[Array, "*b"]) -> Float[Array, "*b d"]:
    """Looks tokens up."""
    x = jnp.take(self.embedding, tokens, axis=0)
    return split_rows(x).astype(jnp.dtype(self.config.dtype))

  def attend(self, hidden: Float[Array, "*b d"]) -> Float[Array, "*b vocab"]:
    """Products with every row of the table, in float32."""
    return jnp.matmul(
      hidden,
      self.embedding.astype(hidden.dtype).T,
      preferred_element_type=jnp.float32,
    )


def relative_position_buckets(
  distances: Int[Array, "*b"],
  *,
  bidirectional: bool,
  num_buckets: int,
  max_distance: int,
) -> Int[Array, "*b"]:
  """Buckets of `key position - query position` (Raffel et al. 2020, 2.1).

  Near distances have a bucket each; farther ones share buckets of
  logarithmically growing width, up to `max_distance`.

  >>> [
  ...   int(b)
  ...   for b in relative_position_buckets(
  ...     jnp.array([0, -1, -15, -40, -500]),
  ...     bidirectional=False,
  ...     num_buckets=32,
  ...     max_distance=128,
  ...   )
  ... ]
  [0, 1, 15, 23, 31]
  """
  offset = jnp.zeros_like(distances)
  if bidirectional:
    num_buckets //= 2
    offset = jnp.where(distances > 0, num_buckets, 0)
    back = jnp.abs(distances)
  else:
    back = jnp.maximum(-distances, 0)
  num_exact = num_buckets // 2
  octaves = jnp.log(jnp.maximum(back, 1) / num_exact)
  octaves = octaves / math.log(max_distance / num_exact)
  coarse = num_exact + (octaves * (num_buckets - num_exact)).astype(jnp.int32)
  coarse = jnp.minimum(coarse, num_buckets - 1)
  return offset + jnp.where(back < num_exact, back, coarse)


class RelativePositionBiases(nn.Module):
  """Learned attention biases by distance, shared by the layers of a stack."""

  config: T5Config
  bidirectional: bool

  @nn.compact
  def __call__(self, distances: Int[Array, "*b"]) -> Float[Array, "..."]:
    """Biases [heads, ...] by `key position - query position` [...]."""
    cfg = self.config
    table = param_with_axes(
      "rel_embedding",
      nn.initializers.variance_scaling(1.0, "fan_avg", "uniform"),
      (cfg.num_heads, cfg.num_buckets),
      jnp.float32,
      axes=("heads", "relpos_buckets"),
    )
    buckets = relative_position_buckets(
      distances,
      bidirectional=self.bidirectional,
      num_buckets=cfg.num_buckets,
      max_distance=cfg.max_distance,
    )
    return table[:, buckets]


def row_biases(
  biases: RelativePositionBiases, length: int
) -> Float[Array, "1 h l l"]:
  """Biases between all positions of a row: [1, heads, queries, keys]."""
  index = jnp.arange(length)
  return biases(index[None, :] - index[:, None])[None]


class Attention(nn.Module):
  """Multi-head attention without scaling (it is in the initialisation)."""

  config: T5Config

  def setup(self):
    """Declares the parameters."""
    cfg = self.config
    joined, dtype = cfg.num_heads * cfg.head_dim, jnp.dtype(cfg.dtype)
    inward, outward = ("embed", "joined_kv"), ("joined_kv", "embed")
    init, query_init = _attention_init(1.0), _attention_init(1 / cfg.head_dim)
    self.query = Dense(joined, inward, dtype, query_init)
    self.key = Dense(joined, inward, dtype, init)
    self.value = Dense(joined, inward, dtype, init)
    self.out = Dense(cfg.emb_dim, outward, dtype, init)
    # One mask over [batch, keys, heads]: see the head of t5.py.
    self.drop_values = nn.Dropout(cfg.dropout_rate, broadcast_dims=(-1,))

  def __call__(
    self,
    inputs: Float[Array, "b q d"],
    memory: Float[Array, "b k d"],
    bias: Float[Array, "1 h q k"] | None,
    mask: Bool[Array, "b 1 q k"],
    *,
    deterministic: bool,
  ) -> Float[Array, "b q d"]:
    """Attends from `inputs` to `memory` where `mask` holds."""
    axes = PartitionSpec("batch", "length", "heads", "kv")
    query, key, value = (
      with_logical_constraint(self.split_heads(x), axes)
      for x in (self.query(inputs), self.key(memory), self.value(memory))
    )
    value = self.drop_values(value, deterministic=deterministic)
    # [b, q, heads, kv], [b, k, heads, kv] -> [b, q, heads, kv]
    mixed = attend(query, key, value, mask=mask, bias=bias)
    return self.out(mixed.reshape(*inputs.shape[:-1], -1))

  def split_heads(self, x: Float[Array, "*b joined"]) -> Float[Array, "..."]:
    """[..., heads * kv] -> [..., heads, kv]."""
    return x.reshape(*x.shape[:-1], self.config.num_heads, self.config.head_dim)

  def keys_values(self, memory: Float[Array, "p k d"]) -> KeysValues:
    """Keys and values of prompts, made once for all steps and samples."""
    # [prompts, length, heads, kv] -> keys [prompts, heads, kv, length], so that
    # products need not turn them; values [prompts, heads, length, kv].
    key = jnp.moveaxis(self.split_heads(self.key(memory)), 1, -1)
    value = jnp.moveaxis(self.split_heads(self.value(memory)), 1, -2)
    return key, value

  def cross_step(
    self,
    x: Float[Array, "p s d"],
    keys_values: KeysValues,
    mask: Bool[Array, "p k"],
  ) -> Float[Array, "p s d"]:
    """Attends from one position of each sample to its prompt.

    All samples of a prompt share one copy of its keys and values.
    """
    key, value = keys_values
    query = self.split_heads(self.query(x))
    weights = _softmax(
      jnp.einsum(
        "pshv,phvk->phsk", query, key, preferred_element_type=jnp.float32
      ),
      mask[:, None, None],
      value.dtype,
    )
    # In this order XLA's CPU takes a twelfth of the time of `->pshv`.
    mixed = jnp.einsum("phsk,phkv->phsv", weights, value)
    mixed = jnp.swapaxes(mixed, 1, 2)
    return self.out(mixed.reshape(*x.shape[:-1], -1))

  def self_step(
    self,
    x: Float[Array, "p s d"],
    cache: KeysValues,
    positions: Int[Array, " p"],
    bias: Float[Array, "p h length"],
  ) -> tuple[Float[Array, "p s d"], KeysValues]:
    """Attends from one position to itself and earlier ones, and keeps it.

    The cache is [prompts, samples, heads, length, kv], so that both products
    run over its last two axes. Position lies beside position, whenever a row
    began: sums are then made in the same order.
    """
    key, value = (
      _put(kept, self.split_heads(new), positions)
      for kept, new in zip(cache, (self.key(x), self.value(x)), strict=True)
    )
    query = self.split_heads(self.query(x))
    scores = jnp.einsum(
      "pshv,pshkv->pshk", query, key, preferred_element_type=jnp.float32
    )
    mask = jnp.arange(bias.shape[-1]) <= positions[:, None]
    weights = _softmax(scores + bias[:, None], mask[:, None, None], value.dtype)
    mixed = jnp.einsum("pshk,pshkv->pshv", weights, value)
    return self.out(mixed.reshape(*x.shape[:-1], -1)), (key, value)


@jax.vmap
def _put(
  cache: Float[Array, "s h length v"],
  new: Float[Array, "s h v"],
  position: Int[Array, ""],
) -> Float[Array, "s h length v"]:
  """Writes a prompt's newest keys or values at their position."""
  return jax.lax.dynamic_update_slice_in_dim(
    cache, new[:, :, None], position, axis=2
  )


def _softmax(
  scores: Float[Array, "*b k"], mask: Bool[Array, "..."], dtype: Any
) -> Float[Array, "*b k"]:
  scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
  return jax.nn.softmax(scores).astype(dtype)


class MLP(nn.Module):
  """The gated MLP: gelu(x W0) * (x W1), then W."""

  config: T5Config

  def setup(self):
    """Declares the parameters."""
    cfg = self.config
    dtype = jnp.dtype(cfg.dtype)
    self.wi_0 = Dense(cfg.mlp_dim, ("embed", "mlp"), dtype)
    self.wi_1 = Dense(cfg.mlp_dim, ("embed", "mlp"), dtype)
    self.wo = Dense(cfg.emb_dim, ("mlp", "embed"), dtype)
    self.dropout = nn.Dropout(cfg.dropout_rate, broadcast_dims=(-2,))

  def __call__(
    self, x: Float[Array, "b l d"], *, deterministic: bool = True
  ) -> Float[Array, "b l d"]:
    """Applies the block."""
    hidden = nn.gelu(self.wi_0(x), approximate=True) * self.wi_1(x)
    hidden = self.dropout(hidden, deterministic=deterministic)
    hidden = with_logical_constraint(
      hidden, PartitionSpec("batch", "length", "mlp")
    )
    return self.wo(hidden)
