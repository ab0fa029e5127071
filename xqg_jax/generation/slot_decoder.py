"""Scheduler of prompts over the slots of the decoding engine.

Prompts enter in groups of one length, an eighth of the slots at a time. A call
of the device takes as many groups as fill the slots once, and the next is
started before the results of the last are read, so that the devices never wait
for the host.
"""

import collections
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Bool, Int, Shaped, UInt32

from xqg_jax.generation.decoding import NOBODY, Slots, cast_matrices
from xqg_jax.generation.network import DecodingNetwork
from xqg_jax.generation.refilling import (
  Finished,
  Queue,
  decode_queue,
  empty_slots,
)
from xqg_jax.generation.sampling import Sampling
from xqg_jax.runtime import cpu_forms, sharding

# Groups that fill the slots once. More of them leave fewer slots idle, larger
# ones are encoded faster.
GROUPS = 8
_LARGE_VOCABULARY = 10_000
_NUM_BUCKETS = 4


@dataclasses.dataclass(frozen=True)
class Group:
  """Prompts that enter the slots together.

  Attributes:
    numbers: of the prompts; may be none.
    wait_for: free slots on each device that they wait for.
  """

  numbers: Sequence[int]
  wait_for: int


@dataclasses.dataclass(frozen=True)
class Call:
  """Groups for one call of the device; all prompts are padded to `length`."""

  length: int
  groups: Sequence[Group]


def bucket_lengths(max_input_length: int) -> list[int]:
  """The lengths that prompts are padded to.

  >>> bucket_lengths(256)
  [64, 128, 192, 256]
  >>> bucket_lengths(20)
  [8, 16, 24]
  """
  step = -(-max_input_length // (8 * _NUM_BUCKETS)) * 8
  count = -(-max_input_length // step)
  return [step * (number + 1) for number in range(count)]


def plan_calls(
  lengths: Sequence[int],
  *,
  buckets: Sequence[int],
  num_slots: int,
  group_size: int,
  num_devices: int = 1,
  refill: bool = True,
) -> list[Call]:
  """Plans a stream of prompts; the last call brings out the rest.

  Args:
    lengths: of the prompts.
    buckets: lengths that they are padded to, rising.
    num_slots: on each device.
    group_size: prompts of a group on each device.
    num_devices: that the prompts are split over.
    refill: False lets nothing in until all slots are free.

  Returns:
    The calls, shorter prompts first; all have equally many groups.

  >>> calls = plan_calls(
  ...   [9, 3, 4, 4], buckets=[4, 12], num_slots=4, group_size=2
  ... )
  >>> for call in calls:
  ...   print(call.length, [(g.numbers, g.wait_for) for g in call.groups])
  4 [([1, 2], 2), ([3], 1)]
  12 [([0], 1), ([], 0)]
  12 [([], 4), ([], 0)]
  """
  in_a_call = -(-num_slots // group_size)
  by_bucket = collections.defaultdict(list)
  for number, length in enumerate(lengths):
    by_bucket[next(n for n in buckets if n >= length)].append(number)
  calls, step = [], group_size * num_devices
  for length, numbers in sorted(by_bucket.items()):
    parts = [numbers[i : i + step] for i in range(0, len(numbers), step)]
    for start in range(0, len(parts), in_a_call):
      some = parts[start : start + in_a_call]
      waits = [-(-len(part) // num_devices) for part in some]
      if not refill:
        waits[0] = num_slots
      groups = [Group(*group) for group in zip(some, waits, strict=True)]
      groups += [Group([], 0)] * (in_a_call - len(groups))
      calls.append(Call(length, groups))
  rest = [Group([], num_slots), *[Group([], 0)] * (in_a_call - 1)]
  return [*calls, Call(max(by_bucket), rest)]


def is_for_cpu(mesh: Mesh, num_tokens: int) -> bool:
  """Whether to arrange the choice among so many tokens for a CPU."""
  has_many = num_tokens >= _LARGE_VOCABULARY
  return has_many and cpu_forms.are_for(mesh.devices.flat[0])


class SlotDecoder:
  """Decodes streams of prompts on the devices of a mesh."""

  def __init__(
    self,
    module: DecodingNetwork,
    params: Mapping[str, Any],
    *,
    mesh: Mesh,
    sampling: Sampling,
    num_samples: int,
    max_input_length: int,
    max_length: int,
    num_slots: int,
    allowed: Bool[np.ndarray, "tables v"],
    token_ids: Int[np.ndarray, " v"] | None = None,
    num_forced: int = 0,
    refill: bool = True,
  ):
    """Puts the parameters on all devices of `mesh`, in the compute dtype.

    Args:
      module: the network.
      params: its parameters, float32.
      mesh: whose axis `data` has all devices.
      sampling: how to draw.
      num_samples: of each prompt.
      max_input_length: tokens of the longest prompt.
      max_length: tokens written at most beyond those that are forced, the end
        token included.
      num_slots: prompts worked on at a time on each device.
      allowed: which of `token_ids` may be written, for each table.
      token_ids: the tokens to choose from; None: the whole vocabulary.
      num_forced: tokens that a sample begins with at most.
      refill: False lets nothing in until all slots are free; for comparison.
    """
    self.module, self.mesh, self.sampling = module, mesh, sampling
    self.num_samples, self.num_forced = num_samples, num_forced
    self.max_length = max_length + num_forced
    self.num_slots, self.refill = num_slots, refill
    self.buckets = bucket_lengths(max_input_length)
    self.group_size = -(-num_slots // GROUPS)
    everywhere = sharding.replicated(mesh)
    cast = jax.jit(
      lambda params: cast_matrices(params, module.config.dtype),
      out_shardings=everywhere,
    )
    self.params = cast(jax.device_put(params, everywhere))
    self._allowed, self._token_ids = jax.device_put(
      (allowed, token_ids), everywhere
    )
    self._for_cpu = is_for_cpu(mesh, allowed.shape[-1])

  def decode(
    self,
    prompts: Sequence[Int[np.ndarray, "..."]],
    keys: UInt32[np.ndarray, "n s 2"],
    tables: Int[np.ndarray, "n s"] | None = None,
    forced: Int[np.ndarray, "n s f"] | None = None,
  ) -> Iterator[dict[int, tuple[Int[np.ndarray, "s length"], bool]]]:
    """Writes the samples of all prompts.

    Args:
      prompts: at least one, none of them empty.
      keys: of every sample, from `make_row_keys`.
      tables: row of `allowed` for every sample; None: the first.
      forced: what every sample begins with, padded; None: nothing.

    Yields:
      By number of the prompt, its samples' tokens and whether all states of
      the network were finite; each prompt once, in the order of finishing.
    """
    slots = empty_slots(
      self.module,
      mesh=self.mesh,
      num_slots=self.num_slots,
      num_samples=self.num_samples,
      prompt_length=self.buckets[-1],
      num_forced=self.num_forced,
      max_length=self.max_length,
    )
    if tables is None:
      tables = np.zeros(keys.shape[:2], np.int32)
    if forced is None:
      forced = np.zeros((*keys.shape[:2], 0), np.int32)
    rows = (keys, tables, forced)
    calls = plan_calls(
      [len(prompt) for prompt in prompts],
      buckets=self.buckets,
      num_slots=self.num_slots,
      group_size=self.group_size,
      num_devices=self.mesh.devices.size,
      refill=self.refill,
    )
    waiting: collections.deque[Finished] = collections.deque()
    for call in calls:
      queue = self._make_queue(call, prompts, rows)
      slots, finished = self._call(slots, queue)
      waiting.append(finished)
      if len(waiting) == 2:
        yield _collect(waiting.popleft())
    yield _collect(waiting.popleft())

  def _call(self, slots: Slots, queue: Queue) -> tuple[Slots, Finished]:
    return decode_queue(
      self.module,
      self.params,
      slots,
      queue,
      self._allowed,
      self._token_ids,
      mesh=self.mesh,
      sampling=self.sampling,
      for_cpu=self._for_cpu,
    )

  def _make_queue(
    self,
    call: Call,
    prompts: Sequence[Int[np.ndarray, "..."]],
    rows: Sequence[Shaped[np.ndarray, "n s ..."]],
  ) -> Queue:
    """The groups of a call, with `rows`: keys, tables and forced tokens."""
    num_devices = self.mesh.devices.size
    shape = (len(call.groups), num_devices * self.group_size)
    pad_id = self.module.config.pad_id
    tokens = np.full((*shape, call.length), pad_id, np.int32)
    its = [np.zeros((*shape, *x.shape[1:]), x.dtype) for x in rows]
    owner = np.full(shape, NOBODY, np.int32)
    for row, group in enumerate(call.groups):
      for place, number in enumerate(group.numbers):
        # By turns to the devices, so that they have equally much to do.
        turn, device = divmod(place, num_devices)
        column = device * self.group_size + turn
        tokens[row, column, : len(prompts[number])] = prompts[number]
        owner[row, column] = number
        for mine, all_rows in zip(its, rows, strict=True):
          mine[row, column] = all_rows[number]
    wait_for = [[group.wait_for] * num_devices for group in call.groups]
    split = NamedSharding(self.mesh, PartitionSpec(None, sharding.DATA))
    keys, table, forced = its
    return Queue(
      *jax.device_put(
        (tokens, keys, owner, table, forced, np.array(wait_for, np.int32)),
        split,
      )
    )


def _collect(
  finished: Finished,
) -> dict[int, tuple[Int[np.ndarray, "s length"], bool]]:
  """What has left the slots, by number."""
  owner, tokens, is_finite = jax.device_get(
    (finished.owner, finished.tokens, finished.is_finite)
  )
  return {
    int(owner[place]): (tokens[place], bool(is_finite[place]))
    for place in zip(*np.nonzero(owner != NOBODY), strict=True)
  }
