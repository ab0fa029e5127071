"""Encoding on devices: packed batches to sums of vectors.

Every text has a target, the row of the result that its vector is added to: a
passage its own, the generated queries of a passage a common one. The vectors
of single queries therefore never leave the device.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float32, Int32

from xqg_jax.encoding.batches import Batch
from xqg_jax.errors import InputError
from xqg_jax.models.dual_encoder.config import Side
from xqg_jax.models.dual_encoder.dual_encoder import DualEncoder
from xqg_jax.models.dual_encoder.text_embedder import TextEmbedder
from xqg_jax.models.encoder_families import find_family
from xqg_jax.runtime import cpu_forms, sharding
from xqg_jax.runtime.idle_meter import IdleMeter
from xqg_jax.runtime.sharding import Device

# Batches handed to the device before the oldest of them must be finished.
_MAX_IN_FLIGHT = 3


COMPUTE_DTYPES = ("float32", "bfloat16")


def check_compute_dtype(name: str) -> None:
  """Refuses a dtype that encoders do not compute in.

  Raises:
    InputError: it is none of `COMPUTE_DTYPES`.
  """
  if name not in COMPUTE_DTYPES:
    raise InputError(
      f"unknown compute_dtype {name!r}",
      mend=f"use one of {', '.join(COMPUTE_DTYPES)}",
    )


@dataclasses.dataclass(frozen=True)
class ProgramKey:
  """What a compiled program depends on; equal models share programs."""

  embedder: TextEmbedder
  mesh: Mesh


@partial(
  jax.jit,
  static_argnames=("model", "side"),
  donate_argnames=("sums", "mark_sums"),
)
def add_batch(
  model: ProgramKey,
  side: Side | None,
  params: Any,
  sums: Float32[Array, "targets dim"],
  tokens: Int32[Array, "rows length"],
  segment_ids: Int32[Array, "rows length"],
  positions: Int32[Array, "rows length"],
  slots: Int32[Array, "rows num_segments"],
  targets: Int32[Array, " texts"],
  marks: Int32[Array, "rows num_segments"] | None = None,
  mark_sums: Float32[Array, "marks dim"] | None = None,
) -> Any:
  """Embeds a batch and adds each text's vector to its target.

  The vectors of a target are summed by a product with zeros and ones and then
  added by unique indices: unlike a scatter of single vectors, that gives the
  same bits on every run of a GPU.

  Returns:
    The sums, with marks also the sums by mark, and a small number to wait for.
  """
  vectors = model.embedder.embed(
    params,
    tokens,
    segment_ids,
    positions,
    side=side,
    num_segments=slots.shape[1],
  )
  # [rows, num_segments, dim] -> [texts, dim]
  vectors = vectors.reshape(-1, vectors.shape[-1]).astype(jnp.float32)
  is_member = slots.reshape(-1) == jnp.arange(targets.size)[:, None]
  # A NaN must not leave its row, and 0 * NaN would spread it to all targets.
  is_finite = jnp.isfinite(vectors).all(axis=-1)
  finite = jnp.where(is_finite[:, None], vectors, 0.0)
  added = _add_members(is_member, finite)
  is_spoiled = (is_member & ~is_finite).any(axis=1)
  added = jnp.where(is_spoiled[:, None], jnp.nan, added)
  sums = sums.at[targets].add(added, mode="drop", unique_indices=True)
  sums = jax.lax.with_sharding_constraint(sums, sharding.replicated(model.mesh))
  if mark_sums is None or marks is None:
    return sums, slots.sum()
  is_marked = marks.reshape(-1) == jnp.arange(len(mark_sums))[:, None]
  mark_sums = mark_sums + _add_members(is_marked, finite)
  mark_sums = jax.lax.with_sharding_constraint(
    mark_sums, sharding.replicated(model.mesh)
  )
  return sums, mark_sums, slots.sum()


def _add_members(
  is_member: Bool[Array, "targets texts"], vectors: Float32[Array, "texts dim"]
) -> Float32[Array, "targets dim"]:
  return jnp.matmul(
    is_member.astype(jnp.float32),
    vectors,
    precision=jax.lax.Precision.HIGHEST,
  )


def sum_batches(
  model: ProgramKey,
  params: Any,
  batches: Sequence[Batch],
  *,
  num_targets: int,
  on_batch: Callable[[], object] = lambda: None,
  idle: IdleMeter | None = None,
) -> Float32[Array, "targets dim"]:
  """Embeds batches and sums their texts by target.

  Args:
    model: what embeds, and the devices; of several processes, too, all of
      which then give the same batches.
    params: its parameters, on those devices.
    batches: what `make_batches` returned.
    num_targets: rows of the result.
    on_batch: called when a batch has been handed over.
    idle: measures how long the devices wait.

  Returns:
    The sums, on the devices; the last batches may still be under way.
  """
  sums, _ = sum_marked_batches(
    model,
    params,
    batches,
    num_targets=num_targets,
    num_marks=0,
    on_batch=on_batch,
    idle=idle,
  )
  return sums


def sum_marked_batches(
  model: ProgramKey,
  params: Any,
  batches: Sequence[Batch],
  *,
  num_targets: int,
  num_marks: int,
  on_batch: Callable[[], object],
  idle: IdleMeter | None,
) -> tuple[Float32[Array, "targets dim"], Float32[Array, "marks dim"]]:
  """Does what `sum_batches` does, and sums the texts by mark, too.

  Args:
    model: as `sum_batches` takes it, like all that follows.
    params: its parameters.
    batches: with marks unless there are none.
    num_targets: rows of the first result.
    num_marks: rows of the second.
    on_batch: called when a batch has been handed over.
    idle: measures how long the devices wait.
  """
  everywhere = sharding.replicated(model.mesh)
  by_row = sharding.batch_sharding(model.mesh)
  # Encoders that share their parameters share their programs, too.
  to_side = model.embedder.config.to_side
  sums, mark_sums = (
    jnp.zeros((num_rows, model.embedder.dim), jnp.float32, device=everywhere)
    for num_rows in (num_targets, num_marks)
  )
  in_flight: list[Array] = []
  for batch in batches:
    begun = time.perf_counter()
    rows = batch.rows
    arrays = rows.tokens, rows.segment_ids, rows.positions, batch.slots
    places = [*[by_row] * len(arrays), everywhere]
    arrays = [*arrays, batch.targets]
    if num_marks:
      arrays, places = [*arrays, batch.marks], [*places, by_row]
    arrays = sharding.place_copies(tuple(arrays), tuple(places))
    side = to_side(batch.side)
    if num_marks:
      sums, mark_sums, done = add_batch(
        model, side, params, sums, *arrays, mark_sums=mark_sums
      )
    else:
      sums, done = add_batch(model, side, params, sums, *arrays)
    if idle is not None:
      idle.watch(begun, done, rows.segment_ids)
    in_flight.append(done)
    # The device always has work, and the host never runs far ahead.
    if len(in_flight) > _MAX_IN_FLIGHT:
      in_flight.pop(0).block_until_ready()
    on_batch()
  return sums, mark_sums


class Embedder:
  """A dual encoder on its devices.

  Attributes:
    encoder: the dual encoder.
    mesh: the devices, all on the axis `data`.
  """

  def __init__(
    self, encoder: DualEncoder, devices: Sequence[Device] | None = None
  ):
    """Puts the parameters on `devices` (all local ones when absent)."""
    self.encoder = encoder
    # Of several processes each encodes on its own.
    devices = jax.local_devices() if devices is None else devices
    self.mesh = sharding.make_mesh(devices=devices)
    fast = _prepare(encoder, is_cpu=cpu_forms.are_for(devices[0]))
    self._params = jax.device_put(fast.params, sharding.replicated(self.mesh))
    self._model = ProgramKey(fast.embedder, self.mesh)

  def sum_texts(
    self,
    batches: Sequence[Batch],
    *,
    num_targets: int,
    on_batch: Callable[[], object] = lambda: None,
    idle: IdleMeter | None = None,
  ) -> Float32[Array, "targets dim"]:
    """Embeds batches and sums their texts by target.

    Args:
      batches: what `make_batches` returned.
      num_targets: rows of the result.
      on_batch: called for each batch, about when it is done.
      idle: measures how long the devices wait for batches.

    Returns:
      The sums, on the device; the last batches may still be under way.
    """
    return sum_batches(
      self._model,
      self._params,
      batches,
      num_targets=num_targets,
      on_batch=on_batch,
      idle=idle,
    )

  def sum_marked_texts(
    self,
    batches: Sequence[Batch],
    *,
    num_targets: int,
    num_marks: int,
    on_batch: Callable[[], object] = lambda: None,
    idle: IdleMeter | None = None,
  ) -> tuple[Float32[Array, "targets dim"], Float32[Array, "marks dim"]]:
    """Does what `sum_texts` does, and sums the texts by mark, too.

    Args:
      batches: what `make_batches` returned, with marks unless there are none.
      num_targets: rows of the first result.
      num_marks: rows of the second.
      on_batch: called for each batch, about when it is done.
      idle: measures how long the devices wait for batches.
    """
    return sum_marked_batches(
      self._model,
      self._params,
      batches,
      num_targets=num_targets,
      num_marks=num_marks,
      on_batch=on_batch,
      idle=idle,
    )


def _prepare(encoder: DualEncoder, *, is_cpu: bool) -> DualEncoder:
  """The same encoder in the form that embeds texts fastest."""
  family = find_family(encoder.module.config)

  def prepare(side: Mapping[str, Any]) -> dict[str, Any]:
    params = family.prepare_params(
      encoder.module, side["encoder"], is_cpu=is_cpu
    )
    return {**side, "encoder": params}

  if encoder.config.share_encoders:
    params = prepare(encoder.params)
  else:
    params = {name: prepare(side) for name, side in encoder.params.items()}
  module = family.prepare_module(encoder.module, is_cpu=is_cpu)
  return dataclasses.replace(encoder, params=params, module=module)
