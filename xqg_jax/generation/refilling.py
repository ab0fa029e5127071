"""Continuous batching: prompts enter slots where others have finished.

The whole queue is one program: a loop over the groups that wait, within it a
loop over the steps of decoding until there is room for the next group.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Int, UInt32

from xqg_jax.generation.decoding import NOBODY, Slots, Writer
from xqg_jax.generation.network import DecodingNetwork
from xqg_jax.generation.sampling import Sampling
from xqg_jax.runtime.sharding import DATA


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Queue:
  """Prompts that wait, in groups that enter the slots together.

  Attributes:
    prompts: padded; those of `NOBODY` come last in a group.
    keys: random keys of their samples.
    owner: numbers of the prompts, 0 or more; `NOBODY` fills up a group.
    table: which row of `allowed` says what their samples may write.
    forced: what these begin with, padded.
    wait_for: free slots that a group waits for on each device; at least as
      many as it has prompts there.
  """

  prompts: Int[Array, "*groups r l"]
  keys: UInt32[Array, "*groups r s 2"]
  owner: Int[Array, "*groups r"]
  table: Int[Array, "*groups r s"]
  forced: Int[Array, "*groups r s f"]
  wait_for: Int[Array, "*groups devices"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Finished:
  """What left the slots, as many rows for each group that came to them.

  Attributes:
    owner: numbers of the prompts, in any order; `NOBODY` where nothing left.
    tokens: of their samples, padded after the end token.
    is_finite: whether all states of the network were finite.
  """

  owner: Int[Array, "*groups r"]
  tokens: Int[Array, "*groups r s length"]
  is_finite: Bool[Array, "*groups r"]


@functools.partial(
  jax.jit,
  static_argnames=(
    "module",
    "mesh",
    "num_slots",
    "num_samples",
    "prompt_length",
    "num_forced",
    "max_length",
  ),
)
def empty_slots(
  module: DecodingNetwork,
  *,
  mesh: Mesh,
  num_slots: int,
  num_samples: int,
  prompt_length: int,
  max_length: int,
  num_forced: int = 0,
) -> Slots:
  """Slots that all are free.

  Args:
    module: the network.
    mesh: of the devices.
    num_slots: on each device.
    num_samples: of each prompt.
    prompt_length: tokens of a prompt.
    max_length: tokens written at most, forced ones included.
    num_forced: tokens that a sample begins with at most.
  """

  def make() -> Slots:
    cfg, shape = module.config, (num_slots, num_samples)
    return Slots(
      owner=jnp.full(num_slots, NOBODY, jnp.int32),
      table=jnp.zeros(shape, jnp.int32),
      forced=jnp.full((*shape, num_forced), cfg.pad_id, jnp.int32),
      position=jnp.zeros(num_slots, jnp.int32),
      last=jnp.full(shape, cfg.first_input, jnp.int32),
      written=jnp.full((*shape, max_length), cfg.pad_id, jnp.int32),
      is_done=jnp.ones(shape, bool),
      is_finite=jnp.ones(num_slots, bool),
      keys=jnp.zeros((*shape, 2), jnp.uint32),
      is_prompt=jnp.zeros((num_slots, prompt_length), bool),
      memory=module.empty_memory(num_slots, prompt_length),
      cache=module.empty_cache(*shape, max_length),
    )

  return jax.shard_map(
    make, mesh=mesh, in_specs=(), out_specs=P(DATA), check_vma=False
  )()


@functools.partial(
  jax.jit,
  static_argnames=("module", "mesh", "sampling", "for_cpu"),
  donate_argnames="slots",
)
def decode_queue(
  module: DecodingNetwork,
  params: Mapping[str, Any],
  slots: Slots,
  queue: Queue,
  allowed: Bool[Array, "tables n"],
  token_ids: Int[Array, " n"] | None = None,
  *,
  mesh: Mesh,
  sampling: Sampling,
  for_cpu: bool = False,
) -> tuple[Slots, Finished]:
  """Lets groups of prompts into the slots, each as soon as there is room.

  Every device has slots and prompts of its own and goes at its own pace. What
  is not finished when the last group has come in stays in the slots: the next
  call goes on with it. Groups without prompts that wait for all slots bring
  out the rest.

  Args:
    module: the network.
    params: its parameters.
    slots: from `empty_slots` or the call before; not to be used afterwards.
    queue: the groups; second axes are split over the devices.
    allowed: which of `token_ids` may be written, for each table.
    token_ids: the tokens to choose from, rising; None: the whole vocabulary.
    mesh: of the devices.
    sampling: how to draw.
    for_cpu: the same computation arranged for a CPU and a large vocabulary.

  Returns:
    The slots as the last group found them, with it, and what left them.
  """
  max_length = slots.written.shape[-1]

  def run(
    params: Any, slots: Slots, queue: Queue, allowed: Any, token_ids: Any
  ) -> tuple[Slots, Finished]:
    writer = Writer(
      module, params, allowed, token_ids, sampling, max_length, for_cpu
    )
    return jax.lax.scan(functools.partial(_let_in, writer=writer), slots, queue)

  groups = P(None, DATA)
  return jax.shard_map(
    run,
    mesh=mesh,
    in_specs=(P(), P(DATA), groups, P(), P()),
    out_specs=(P(DATA), groups),
    check_vma=False,
  )(params, slots, queue, allowed, token_ids)


def _let_in(
  slots: Slots, group: Queue, *, writer: Writer
) -> tuple[Slots, Finished]:
  """Admits one group, and takes out what has finished where asked to."""
  slots = writer.run(slots, group.wait_for[0])
  shapes = jax.eval_shape(writer.encode, group.prompts)
  encoded = jax.lax.cond(
    (group.owner != NOBODY).any(),
    writer.encode,
    lambda _: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes),
    group.prompts,
  )
  memory, is_finite = encoded
  spare = slots.is_prompt.shape[1] - group.prompts.shape[1]
  new = writer.start(
    jnp.pad(
      group.prompts,
      ((0, 0), (0, spare)),
      constant_values=writer.config.pad_id,
    ),
    group.keys,
    group.owner,
    group.table,
    group.forced,
    (writer.module.lengthen_memory(memory, spare), is_finite),
  )
  is_free, num_slots = slots.is_free, len(slots.owner)
  # First the finished, then the empty, last those at work.
  rank = jnp.where(is_free, slots.owner == NOBODY, 2)
  place = jnp.argsort(rank, stable=True)[: len(group.owner)]
  finished = Finished(
    jnp.where(is_free[place], slots.owner[place], NOBODY),
    slots.written[place],
    slots.is_finite[place],
  )
  owner = jnp.where(is_free[place], NOBODY, slots.owner[place])
  slots = dataclasses.replace(slots, owner=slots.owner.at[place].set(owner))
  # A place beyond the last is none.
  place = jnp.where(group.owner == NOBODY, num_slots, place)
  entered = jax.tree.map(
    lambda old, new: old.at[place].set(new, mode="drop"),
    dataclasses.replace(slots, cache=None),
    new,
  )
  return dataclasses.replace(entered, cache=slots.cache), finished
