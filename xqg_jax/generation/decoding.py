"""Decoding engine: sampled continuations of many prompts at once.

Prompts are read once, and all samples of a prompt share what the network keeps
of them. A prompt and its samples sit in a
slot; `decode` gives each prompt one of its own, `refilling.decode_queue` puts
waiting prompts into the slots of finished ones while the others go on.

A row's random numbers come from its own key and its position alone, and its
sums are made in the same order whenever it began. Together with fixed shapes
this gives a passage the same queries in whatever company it is decoded.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from xqg_jax.generation.network import DecodingNetwork
from xqg_jax.generation.sampling import (
  GREEDY,
  Sampling,
  draw_tokens,
  find_candidates,
  make_row_keys,
)

__all__ = [
  "GREEDY",
  "NOBODY",
  "Sampling",
  "Slots",
  "Writer",
  "cast_matrices",
  "decode",
  "make_row_keys",
]

NOBODY = -1
# Added to logits of tokens that must not be written; beyond any real one.
_NEVER = -1e30


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Slots:
  """Prompts that are being worked on, with their samples.

  Attributes:
    owner: number of the prompt in each slot; `NOBODY` where there is none.
    table: which row of `allowed` says what a sample may write.
    forced: what a sample begins with, padded; counted as written.
    position: tokens written so far of each sample.
    last: the newest of them.
    written: all of them.
    is_done: whether a sample has ended.
    is_finite: whether all states of the network were finite.
    keys: random keys of the samples.
    is_prompt: where the prompt is not padding.
    memory: what the network keeps of the prompts.
    cache: what it keeps of what is written.
  """

  owner: Int[Array, " p"]
  table: Int[Array, "p s"]
  forced: Int[Array, "p s f"]
  position: Int[Array, " p"]
  last: Int[Array, "p s"]
  written: Int[Array, "p s length"]
  is_done: Bool[Array, "p s"]
  is_finite: Bool[Array, " p"]
  keys: UInt32[Array, "p s 2"]
  is_prompt: Bool[Array, "p l"]
  memory: Any
  cache: Any

  @property
  def is_free(self) -> Bool[Array, " p"]:
    """Whether all samples of a slot have ended."""
    return self.is_done.all(axis=1)


def cast_matrices(params: Mapping[str, Any], dtype: str) -> Any:
  """Rounds what enters products once, not in every step of the loop."""
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: (
      leaf.astype(dtype) if path[-1].key in ("kernel", "embedding") else leaf
    ),
    params,
  )


# -------------------------------------------------------------------- network


class Writer:
  """Starts prompts and writes their tokens, one of each row in a step.

  Most of a CPU's time goes into logits. `for_cpu` makes none for rows that have
  ended, and lets the product do the masking: each table is a row of the kernel
  that only its prompts multiply with 1, so that no pass over the logits is
  needed. A sum that ends with 0 is the same sum.
  """

  def __init__(
    self,
    module: DecodingNetwork,
    params: Mapping[str, Any],
    allowed: Bool[Array, "tables n"],
    token_ids: Int[Array, " n"] | None,
    sampling: Sampling,
    max_length: int,
    for_cpu: bool,
  ):
    self.module, self.config = module, module.config
    params = cast_matrices(params, self.config.dtype)
    self.apply = functools.partial(module.apply, {"params": params})
    self.kernel = module.output_kernel(params, token_ids)
    if for_cpu:
      shift = jnp.where(allowed, 0, _NEVER).astype(self.kernel.dtype)
      self.kernel = jnp.concatenate([self.kernel, shift])
    self.allowed, self.ids = allowed, token_ids
    self.sampling, self.max_length = sampling, max_length
    self.for_cpu = for_cpu

  def encode(self, prompts: Int[Array, "p l"]) -> tuple[Any, Bool[Array, " p"]]:
    """The memory of prompts, and whether all states were finite."""
    return self.apply(prompts, method="read_prompts")

  def start(
    self,
    prompts: Int[Array, "p l"],
    keys: UInt32[Array, "p s 2"],
    owner: Int[Array, " p"],
    table: Int[Array, "p s"],
    forced: Int[Array, "p s f"],
    encoded: tuple[Any, Bool[Array, " p"]],
  ) -> Slots:
    """Slots of encoded prompts before their first token, without a cache."""
    pad_id, shape = self.config.pad_id, keys.shape[:2]
    is_prompt = prompts != pad_id
    is_empty = ~is_prompt.any(axis=1, keepdims=True)
    return Slots(
      owner=owner,
      table=table,
      forced=forced,
      position=jnp.zeros(shape[0], jnp.int32),
      last=jnp.full(shape, self.config.first_input, jnp.int32),
      written=jnp.full((*shape, self.max_length), pad_id, jnp.int32),
      is_done=jnp.broadcast_to(is_empty, shape),
      is_finite=encoded[1],
      keys=keys,
      is_prompt=is_prompt,
      memory=encoded[0],
      cache=None,
    )

  def run(self, slots: Slots, wait_for: int | Int[Array, ""]) -> Slots:
    """Writes until so many slots are free."""
    return jax.lax.while_loop(
      lambda slots: slots.is_free.sum() < wait_for, self._advance, slots
    )

  def _advance(self, slots: Slots) -> Slots:
    """Writes one token of every row."""
    pad_id, position = self.config.pad_id, slots.position
    hidden, cache = self.apply(
      slots.last,
      slots.cache,
      slots.memory,
      slots.is_prompt,
      position,
      method="decode_step",
    )
    forced, num_forced = self._force(slots)
    is_forced = position[:, None] < num_forced
    chosen = self._choose(hidden, slots, ~slots.is_done & ~is_forced)
    tokens = jnp.where(is_forced, forced, chosen)
    tokens = jnp.where(slots.is_done, pad_id, tokens)
    is_here = jnp.arange(self.max_length) == position[:, None, None]
    is_finite = jnp.isfinite(hidden).all(axis=(1, 2)) | slots.is_free
    num_chosen = self.max_length - slots.forced.shape[-1]
    is_end = jnp.isin(tokens, jnp.array(self.config.end_ids))
    is_last = position[:, None] + 1 >= num_forced + num_chosen
    return dataclasses.replace(
      slots,
      position=jnp.minimum(position + 1, self.max_length - 1),
      last=tokens,
      # A row that has ended stays at a position that it may have written.
      written=jnp.where(
        is_here & ~slots.is_done[..., None], tokens[..., None], slots.written
      ),
      is_done=slots.is_done | is_end | is_last,
      is_finite=slots.is_finite & is_finite,
      cache=cache,
    )

  def _force(self, slots: Slots) -> tuple[Int[Array, "p s"], Int[Array, "p s"]]:
    """The forced tokens at this position, and how many there are of each row.

    Without meaning beyond that number.
    """
    pad_id, length = self.config.pad_id, slots.forced.shape[-1]
    if not length:
      none = jnp.zeros_like(slots.last)
      return none, none
    place = jnp.minimum(slots.position, length - 1)[:, None, None]
    here = jnp.take_along_axis(slots.forced, place, axis=2)[..., 0]
    return here, (slots.forced != pad_id).sum(axis=-1, dtype=jnp.int32)

  def _choose(
    self,
    hidden: Float[Array, "p s d"],
    slots: Slots,
    is_wanted: Bool[Array, "p s"],
  ) -> Int[Array, "p s"]:
    """The next tokens; without meaning in rows that are not wanted."""
    rows = (hidden.reshape(-1, hidden.shape[-1]), slots.table.reshape(-1))
    if self.for_cpu:
      is_open = is_wanted.reshape(-1)
      values, tokens = _for_some(self._find_candidates, rows, is_open)
    else:
      values, tokens = self._find_candidates(*rows)
    positions = jnp.broadcast_to(slots.position[:, None], slots.last.shape)
    tokens = draw_tokens(
      values,
      tokens,
      slots.keys.reshape(-1, 2),
      positions.reshape(-1),
      self.sampling,
    )
    return tokens.reshape(slots.last.shape)

  def _find_candidates(
    self, hidden: Float[Array, "rows d"], table: Int[Array, " rows"]
  ) -> tuple[Float[Array, "rows k"], Int[Array, "rows k"]]:
    if self.for_cpu:
      which = jax.nn.one_hot(table, len(self.allowed), dtype=hidden.dtype)
      hidden = jnp.concatenate([hidden, which], axis=1)
    logits = self.module.project(hidden, self.kernel)
    if not self.for_cpu:
      allowed = self.allowed if len(self.allowed) == 1 else self.allowed[table]
      logits = jnp.where(allowed, logits, -jnp.inf)
    values, places = find_candidates(logits, self.sampling)
    values = jnp.where(values < _NEVER / 1e3, -jnp.inf, values)
    return values, places if self.ids is None else self.ids[places]


def _for_some(
  function: Callable[..., Any],
  rows: tuple[Array, ...],
  is_wanted: Bool[Array, " rows"],
) -> Any:
  """Applies `function` to a half, three quarters or all of the rows.

  As few as hold the wanted ones, of which the results are put in their places.
  """
  num_rows = len(is_wanted)
  sizes = sorted({-(-num_rows * part // 4) for part in (2, 3, 4)})
  order = jnp.argsort(~is_wanted, stable=True)

  def apply_to(size: int) -> Callable[..., Any]:
    def branch(order: Int[Array, " rows"]) -> Any:
      some = order[:size]
      return jax.tree.map(
        lambda x: jnp.zeros((num_rows, *x.shape[1:]), x.dtype).at[some].set(x),
        function(*(x[some] for x in rows)),
      )

    return branch

  which = jnp.searchsorted(jnp.array(sizes), is_wanted.sum())
  return jax.lax.switch(which, [apply_to(size) for size in sizes], order)


# ------------------------------------------------------------- a batch at once


@functools.partial(
  jax.jit, static_argnames=("module", "sampling", "max_length", "for_cpu")
)
def decode(
  module: DecodingNetwork,
  params: Mapping[str, Any],
  prompts: Int[Array, "p l"],
  keys: UInt32[Array, "p s 2"],
  allowed: Bool[Array, " n"],
  token_ids: Int[Array, " n"] | None = None,
  forced: Int[Array, "p s f"] | None = None,
  *,
  sampling: Sampling,
  max_length: int,
  for_cpu: bool = False,
) -> tuple[Int[Array, "p s length"], Bool[Array, ""]]:
  """Writes up to `max_length` tokens for every sample of every prompt.

  Args:
    module: the network.
    params: its parameters.
    prompts: padded with the network's `pad_id`; an empty prompt fills up a
      batch, and nothing is written for it.
    keys: of every sample, from `make_row_keys`.
    allowed: which of `token_ids` may be written.
    token_ids: the tokens to choose from, rising; None: the whole vocabulary.
    forced: what each sample begins with, padded; None: nothing.
    sampling: how to draw.
    max_length: tokens written at most beyond those that are forced, the end
      token included.
    for_cpu: the same computation arranged for a CPU and a large vocabulary.

  Returns:
    The tokens, `pad_id` after the end token, and whether all states of the
    network were finite.
  """
  shape = keys.shape[:2]
  if forced is None:
    forced = jnp.zeros((*shape, 0), jnp.int32)
  length = max_length + forced.shape[-1]
  writer = Writer(
    module, params, allowed[None], token_ids, sampling, length, for_cpu
  )
  slots = writer.start(
    prompts,
    keys,
    jnp.arange(len(prompts)),
    jnp.zeros(shape, jnp.int32),
    forced,
    writer.encode(prompts),
  )
  cache = module.empty_cache(shape[0], shape[1], length)
  slots = writer.run(dataclasses.replace(slots, cache=cache), len(prompts))
  return slots.written, slots.is_finite.all()
