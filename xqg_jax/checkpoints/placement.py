"""Parameters go from a file to their devices, one tensor at a time."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from jaxtyping import Array, Float

from xqg_jax.models.parameters import Place


def place_on(shardings: Mapping[str, Any] | None) -> Place:
  """Makes the function that copies tensors to their devices as fp32.

  Each call returns when the copy is done, so that no more than one tensor's
  copy is ever held beside the parameters and the mapped file.

  Args:
    shardings: a tree as the parameters', of shardings; None puts every tensor
      whole on the first local device.
  """
  whole = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  table = traverse_util.flatten_dict(dict(shardings or {}), sep="/")

  def place(path: str, value: np.ndarray) -> Float[Array, "..."]:
    sharding = table[path] if shardings else whole
    placed = jax.make_array_from_callback(
      value.shape,
      sharding,
      # A copy: the file may be replaced while the parameters are in use.
      lambda index: np.array(value[index], np.float32, order="C"),
    )
    return jax.block_until_ready(placed)

  return place
