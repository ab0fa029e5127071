"""Sampling of the next token: top-k, top-p, temperature, seeds by row.

A row's random numbers come from its own key and its position alone, whatever is
decoded beside it.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from xqg_jax.errors import InputError
from xqg_jax.runtime.cpu_forms import by_platform

KEY_IMPL = "threefry2x32"
# The largest k for which the k largest entries are found by k passes.
_MAX_PASSES = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
  """How the next token is chosen.

  Attributes:
    top_k: the number of likeliest tokens to draw from; 1 is greedy, 0 means the
      whole vocabulary (slow).
    top_p: of those, the fewest likeliest ones with at least this probability
      together; 1 means all.
    temperature: divides the logits.
    approximate: on TPUs, find the likeliest tokens by `jax.lax.approx_max_k`,
      which misses one in twenty of them and is faster. Elsewhere it changes
      nothing.
  """

  top_k: int = 10
  top_p: float = 1.0
  temperature: float = 1.0
  approximate: bool = False

  def __post_init__(self):
    if self.top_k < 0:
      raise InputError(f"top_k is {self.top_k}", mend="use 0 or more")
    if not 0 < self.top_p <= 1:
      raise InputError(
        f"top_p is {self.top_p}", mend="use more than 0 and at most 1"
      )
    if not self.temperature > 0:
      raise InputError(
        f"temperature is {self.temperature}",
        mend="use more than 0; top_k=1 is greedy",
      )


GREEDY = Sampling(top_k=1)


def make_row_keys(
  passage_ids: Sequence[str],
  languages: Sequence[str],
  *,
  num_samples: int,
  seed: int,
) -> UInt32[np.ndarray, "prompts samples 2"]:
  """Random keys of each sample, which depend on its own names alone.

  Args:
    passage_ids: of each prompt.
    languages: code of each prompt's language.
    num_samples: samples of each prompt.
    seed: of the whole run.
  """
  digests = [
    hashlib.sha256(f"{seed}\0{name}\0{language}\0{sample}".encode()).digest()
    for name, language in zip(passage_ids, languages, strict=True)
    for sample in range(num_samples)
  ]
  words = np.frombuffer(b"".join(d[:8] for d in digests), "<u4")
  return words.astype(np.uint32).reshape(-1, num_samples, 2)


def top_entries(
  logits: Float[Array, "rows vocab"], k: int
) -> tuple[Float[Array, "rows k"], Int[Array, "rows k"]]:
  """The k largest entries of each row, exactly as `jax.lax.top_k`, but fast.

  Of blocks of entries the k with the largest maxima hold the k largest
  entries. Equal entries go by index, as the blocks found are put in order.
  """
  vocab_size = logits.shape[-1]
  block = 1 << max(0, (vocab_size // k).bit_length() // 2)
  num_blocks = -(-vocab_size // block)
  if k > _MAX_PASSES or num_blocks <= 2 * k:
    return _select(logits, k)
  blocks = logits
  if spare := num_blocks * block - vocab_size:
    blocks = jnp.pad(logits, ((0, 0), (0, spare)), constant_values=-jnp.inf)
  blocks = blocks.reshape(-1, num_blocks, block)
  _, best = _select(blocks.max(axis=-1), k)
  best = jnp.sort(best, axis=-1)
  # [rows, blocks, block] -> [rows, k * block]
  inside = jnp.take_along_axis(blocks, best[..., None], axis=1)
  values, places = _select(inside.reshape(-1, k * block), k)
  found = jnp.take_along_axis(best, places // block, axis=1)
  return values, found * block + places % block


def _select(
  values: Float[Array, "rows n"], k: int
) -> tuple[Float[Array, "rows k"], Int[Array, "rows k"]]:
  """`jax.lax.top_k`; on CPU, where that sorts, by k passes if k is small."""

  def at_once(values: Array) -> tuple[Array, Array]:
    largest, places = jax.lax.top_k(values, k)
    return largest, places

  if k > _MAX_PASSES:
    return at_once(values)
  by_passes = functools.partial(_select_by_passes, k=k)
  largest, places = by_platform(values, cpu=by_passes, default=at_once)
  return largest, places


def _select_by_passes(
  values: Float[Array, "rows n"], *, k: int
) -> tuple[Float[Array, "rows k"], Int[Array, "rows k"]]:
  size = values.shape[-1]
  index = jnp.arange(size, dtype=jnp.int32)
  # What has been taken is below anything else: no place is taken twice.
  lowest = jnp.finfo(values.dtype).min

  def take_largest(rest, _):
    largest = rest.max(axis=-1)
    equal = rest == largest[:, None]
    place = jnp.where(equal, index, size - 1).min(axis=-1)
    return jnp.where(index == place[:, None], -jnp.inf, rest), (largest, place)

  start = jnp.maximum(values, lowest)
  _, (largest, places) = jax.lax.scan(take_largest, start, length=k)
  return jnp.where(largest == lowest, -jnp.inf, largest).T, places.T


def find_candidates(
  logits: Float[Array, "rows vocab"], sampling: Sampling
) -> tuple[Float[Array, "rows k"], Int[Array, "rows k"]]:
  """The likeliest tokens of each row: their logits, falling, and indices."""
  k = min(sampling.top_k or logits.shape[-1], logits.shape[-1])
  exactly = functools.partial(top_entries, k=k)
  if not sampling.approximate:
    return exactly(logits)
  roughly = functools.partial(_approximate_top_entries, k=k)
  return jax.lax.platform_dependent(logits, tpu=roughly, default=exactly)


def _approximate_top_entries(
  logits: Float[Array, "rows vocab"], k: int
) -> tuple[Float[Array, "rows k"], Int[Array, "rows k"]]:
  largest, places = jax.lax.approx_max_k(logits, k, recall_target=0.95)
  return largest, places


def draw_tokens(
  values: Float[Array, "rows k"],
  tokens: Int[Array, "rows k"],
  keys: UInt32[Array, "rows 2"],
  positions: Int[Array, " rows"],
  sampling: Sampling,
) -> Int[Array, " rows"]:
  """Draws one of the candidates of each row.

  Args:
    values: logits from `find_candidates`; `-inf` where a token must not be
      written.
    tokens: from there, too.
    keys: of each row.
    positions: of the token in its row, folded into the key.
    sampling: how to draw.
  """
  if tokens.shape[-1] == 1:
    return tokens[:, 0]
  values = _keep_top_p(values / sampling.temperature, sampling.top_p)

  def draw(key, position, row):
    key = jax.random.wrap_key_data(key, impl=KEY_IMPL)
    return jax.random.categorical(jax.random.fold_in(key, position), row)

  choice = jax.vmap(draw)(keys, positions, values)
  return jnp.take_along_axis(tokens, choice[:, None], axis=1)[:, 0]


def _keep_top_p(
  values: Float[Array, "rows k"], top_p: float
) -> Float[Array, "rows k"]:
  """Keeps the entries, in falling order, before which less than top_p lies."""
  if top_p == 1:
    return values
  probabilities = jax.nn.softmax(values)
  before = jnp.cumsum(probabilities, axis=-1) - probabilities
  return jnp.where(before < top_p, values, -jnp.inf)
