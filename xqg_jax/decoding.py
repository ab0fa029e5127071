"""The decoding engine: many sampled continuations of many prompts.

Prompts are encoded once; keys and values for the attention to them are made
once and shared by all samples of a prompt; one jitted loop with a static cache
writes a token a step and ends when every row has ended.

A row's random numbers come from its own key and its position alone. Together
with fixed shapes this gives a passage the same queries in whatever company it
is decoded.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from xqg_jax.errors import InputError
from xqg_jax.models.t5 import T5, T5Config
from xqg_jax.models.t5_layers import KeysValues
from xqg_jax.tokenizers import Tokenizer

KEY_IMPL = "threefry2x32"
NUM_SENTINELS = 100
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
  """

  top_k: int = 10
  top_p: float = 1.0
  temperature: float = 1.0

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


def make_vocabulary_mask(
  tokenizer: Tokenizer, vocab_size: int
) -> Bool[np.ndarray, " vocab"]:
  """Marks the ids that may be written in a query.

  Left out are padding, the unknown token, sentinels (`<extra_id_0>`, which mT5
  falls back to before it has learnt its task) and the ids beyond the
  tokenizer's vocabulary, for which the embedding table may have rows.
  """
  mask = np.arange(vocab_size) < tokenizer.vocab_size
  names = [f"<extra_id_{number}>" for number in range(NUM_SENTINELS)]
  if unknown := tokenizer.special_tokens.get("unk_token"):
    names.append(unknown)
  for ids in tokenizer.encode_batch(names, max_length=16):
    inner = [token for token in ids if token != tokenizer.eos_id]
    if len(inner) == 1:  # Several pieces: not a token of this vocabulary.
      mask[inner] = False
  mask[tokenizer.pad_id] = False
  return mask


# ----------------------------------------------------------------- sampling


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
  spare = num_blocks * block - vocab_size
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

  def at_once(values):
    return tuple(jax.lax.top_k(values, k))

  if k > _MAX_PASSES:
    return at_once(values)
  by_passes = functools.partial(_select_by_passes, k=k)
  return jax.lax.platform_dependent(values, cpu=by_passes, default=at_once)


def _select_by_passes(
  values: Float[Array, "rows n"], *, k: int
) -> tuple[Float[Array, "rows k"], Int[Array, "rows k"]]:
  size = values.shape[-1]
  index = jnp.arange(size, dtype=jnp.int32)

  def take_largest(rest, _):
    largest = rest.max(axis=-1)
    equal = rest == largest[:, None]
    place = jnp.where(equal, index, size - 1).min(axis=-1)
    return jnp.where(index == place[:, None], -jnp.inf, rest), (largest, place)

  _, (largest, places) = jax.lax.scan(take_largest, values, length=k)
  return largest.T, places.T


def sample_tokens(
  logits: Float[Array, "rows vocab"],
  keys: UInt32[Array, "rows 2"],
  positions: Int[Array, " rows"],
  sampling: Sampling,
) -> Int[Array, " rows"]:
  """Draws each row's next token.

  Args:
    logits: float32; `-inf` where a token must not be written.
    keys: of each row.
    positions: of the token in its row, folded into the key.
    sampling: how to draw.
  """
  k = sampling.top_k or logits.shape[-1]
  values, tokens = top_entries(logits, min(k, logits.shape[-1]))
  if k == 1:
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


# --------------------------------------------------------------------- loop


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _State:
  """What one step hands to the next."""

  step: Int[Array, ""]
  last: Int[Array, "p s"]  # the newest tokens
  written: Int[Array, "p s length"]
  is_done: Bool[Array, "p s"]
  is_finite: Bool[Array, ""]
  cache: list[KeysValues]


@functools.partial(
  jax.jit, static_argnames=("module", "sampling", "max_length")
)
def decode(
  module: T5,
  params: Mapping[str, Any],
  prompts: Int[Array, "p l"],
  keys: UInt32[Array, "p s 2"],
  allowed: Bool[Array, " vocab"],
  *,
  sampling: Sampling,
  max_length: int,
) -> tuple[Int[Array, "p s length"], Bool[Array, ""]]:
  """Writes up to `max_length` tokens for every sample of every prompt.

  Args:
    module: the network.
    params: its parameters, float32.
    prompts: padded with the network's `pad_id`; an empty prompt fills up a
      batch, and nothing is written for it.
    keys: of every sample, from `make_row_keys`.
    allowed: the ids that may be written.
    sampling: how to draw.
    max_length: tokens written at most, the end token included.

  Returns:
    The tokens, `pad_id` after the end token, and whether all states of the
    network were finite.
  """
  cfg = module.config
  apply = functools.partial(
    module.apply, {"params": _cast_matrices(params, cfg.dtype)}
  )
  is_prompt = prompts != cfg.pad_id
  encoded = apply(prompts, method="encode")
  advance = functools.partial(
    _advance,
    apply=apply,
    config=cfg,
    cross=apply(encoded, method="cross_keys_values"),
    is_prompt=is_prompt,
    keys=keys,
    allowed=allowed,
    sampling=sampling,
  )
  num_prompts, num_samples = keys.shape[:2]
  first = jnp.full((num_prompts, num_samples), cfg.pad_id, jnp.int32)
  start = _State(
    step=jnp.zeros((), jnp.int32),
    last=first,
    written=jnp.full((*first.shape, max_length), cfg.pad_id, jnp.int32),
    is_done=jnp.broadcast_to(
      ~is_prompt.any(axis=1, keepdims=True), first.shape
    ),
    is_finite=jnp.isfinite(encoded).all(),
    cache=module.empty_cache(num_prompts, num_samples, max_length),
  )
  end = jax.lax.while_loop(
    lambda state: (state.step < max_length) & ~state.is_done.all(),
    advance,
    start,
  )
  return end.written, end.is_finite


def _advance(
  state: _State,
  *,
  apply: Callable[..., Any],
  config: T5Config,
  cross: list[KeysValues],
  is_prompt: Bool[Array, "p l"],
  keys: UInt32[Array, "p s 2"],
  allowed: Bool[Array, " vocab"],
  sampling: Sampling,
) -> _State:
  """Writes one token of every row."""
  positions = jnp.full_like(state.last, state.step)
  hidden, cache = apply(
    state.last,
    state.cache,
    cross,
    is_prompt,
    state.step,
    positions,
    method="decode_step",
  )
  logits = jnp.where(allowed, apply(hidden, method="logits"), -jnp.inf)
  tokens = sample_tokens(
    logits.reshape(-1, config.vocab_size),
    keys.reshape(-1, 2),
    positions.reshape(-1),
    sampling,
  ).reshape(state.last.shape)
  tokens = jnp.where(state.is_done, config.pad_id, tokens)
  return _State(
    step=state.step + 1,
    last=tokens,
    written=jax.lax.dynamic_update_slice_in_dim(
      state.written, tokens[..., None], state.step, axis=-1
    ),
    is_done=state.is_done | (tokens == config.eos_id),
    is_finite=state.is_finite & jnp.isfinite(hidden).all(),
    cache=cache,
  )


def _cast_matrices(params: Mapping[str, Any], dtype: str) -> Any:
  """Rounds what enters products once, not in every step of the loop."""
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: (
      leaf.astype(dtype) if path[-1].key in ("kernel", "embedding") else leaf
    ),
    params,
  )
