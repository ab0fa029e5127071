"""Placement of parameters on devices, one tensor at a time from the file."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Float

from xqg_jax.models.parameters import flatten_params
from xqg_jax.runtime.sharding import Device


@runtime_checkable
class StoredTensor(Protocol):
  """A tensor of which any block can be read: a mapped file, an open store."""

  shape: tuple[int, ...]

  def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
    """Reads a block."""
    ...


def place_on(
  shardings: Mapping[str, Any] | None,
) -> Callable[[str, StoredTensor], Float[Array, "..."]]:
  """Makes the function that copies tensors to their devices as fp32.

  Each call returns when the copy is done, so that no more than one tensor's
  copy is ever held beside the parameters and the mapped file; of a tensor that
  is split over devices, no more than one device's part.

  Args:
    shardings: a tree as the parameters', of shardings; None puts every tensor
      whole on the first local device.

  Returns:
    A function of a parameter's path and its `StoredTensor`, such as an array
    that maps a file, which returns the array on its devices.
  """
  whole = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  table = flatten_params(dict(shardings or {}))

  def place(path: str, value: StoredTensor) -> Float[Array, "..."]:
    return _place(value, table[path] if shardings else whole)

  return place


def _place(
  value: StoredTensor, sharding: jax.sharding.Sharding
) -> Float[Array, "..."]:
  """Reads every block once, however many devices hold a copy of it."""
  shape = tuple(value.shape)
  holders: dict[Any, tuple[Any, list[Device]]] = {}
  for device, index in sharding.addressable_devices_indices_map(shape).items():
    if index is None:  # it has no part of it
      continue
    bounds = tuple(
      part.indices(size) for part, size in zip(index, shape, strict=True)
    )
    holders.setdefault(bounds, (index, []))[1].append(device)
  parts = []
  for index, devices in holders.values():
    block = _read(value, index)
    parts += [
      jax.block_until_ready(jax.device_put(block, device)) for device in devices
    ]
  return jax.make_array_from_single_device_arrays(shape, sharding, parts)


def _read(
  value: StoredTensor, index: tuple[slice, ...]
) -> Float[np.ndarray, "..."]:
  block = value[index]
  if isinstance(value, np.ndarray):
    # A copy: the file may be replaced while the parameters are in use.
    return np.array(block, np.float32, order="C")
  return np.asarray(block, np.float32, order="C")
