"""The mesh, and which logical axis lies on which of its axes.

One table says how every array is laid out: try another layout by passing
another table, not by changing the model. The axis names are T5X's.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

DATA, MODEL = "data", "model"

# (logical axis, mesh axis or None = replicated), in T5X's form.
AxisRules = Sequence[tuple[str, str | None]]
LOGICAL_AXIS_RULES: AxisRules = (
  ("batch", DATA),
  ("vocab", MODEL),
  ("mlp", MODEL),
  ("heads", MODEL),
  ("joined_kv", MODEL),
  ("embed", None),
  ("kv", None),
  ("length", None),
  ("relpos_buckets", None),
  ("abspos_buckets", None),
  # BERT's tables of positions and token types are small: a copy everywhere.
  ("positions", None),
  ("token_types", None),
  ("projection", None),
  ("layers", None),
  ("stack", None),
)


def make_mesh(
  num_partitions: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """Makes the mesh with the axes `data` and `model`.

  Args:
    num_partitions: size of the axis `model`, over which parameters are split;
      the other devices hold copies and share the batch.
    devices: the devices; all of this host when absent. For a computation over
      several hosts give `jax.devices()`.

  Returns:
    A mesh of shape [len(devices) / num_partitions, num_partitions].

  Raises:
    ValueError: the number of devices is no multiple of `num_partitions`.
  """
  devices = jax.local_devices() if devices is None else list(devices)
  if num_partitions < 1 or len(devices) % num_partitions:
    raise ValueError(
      f"{len(devices)} devices cannot be split into groups of "
      f"num_partitions={num_partitions}"
    )
  grid = np.array(devices).reshape(-1, num_partitions)
  return Mesh(grid, (DATA, MODEL))


def to_partition_spec(
  axes: Sequence[str | None], rules: AxisRules = LOGICAL_AXIS_RULES
) -> PartitionSpec:
  """Translates one array's logical axis names to mesh axes.

  >>> tuple(to_partition_spec(("embed", "mlp")))
  (None, 'model')

  Raises:
    ValueError: an unknown name, or two axes on one mesh axis.
  """
  table = dict(rules)
  unknown = [axis for axis in axes if axis is not None and axis not in table]
  if unknown:
    raise ValueError(f"no sharding rule for the logical axes {unknown}")
  placed = [None if axis is None else table[axis] for axis in axes]
  used = [axis for axis in placed if axis is not None]
  if len(used) != len(set(used)):
    raise ValueError(f"two of the axes {tuple(axes)} lie on one mesh axis")
  return PartitionSpec(*placed)


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding of an array that every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """The sharding of an array whose first axis is split over `data`."""
  return NamedSharding(mesh, PartitionSpec(DATA))


def params_shardings(
  mesh: Mesh, axes_tree: Any, rules: AxisRules = LOGICAL_AXIS_RULES
) -> Any:
  """Maps a tree of logical axis names to a tree of shardings.

  Args:
    mesh: the mesh.
    axes_tree: as the params, each leaf a tuple or `PartitionSpec` of logical
      axis names (`flax.linen.partitioning.get_axis_names` makes such a tree).
    rules: the table.
  """
  return jax.tree.map(
    lambda axes: NamedSharding(mesh, to_partition_spec(tuple(axes), rules)),
    axes_tree,
    is_leaf=lambda node: isinstance(node, (tuple, PartitionSpec)),
  )


def shard_batch(mesh: Mesh, batch: Any) -> Any:
  """Puts a tree of host arrays on the devices, first axes split over `data`.

  Over several hosts each gives its own part of the batch.
  """
  sharding = batch_sharding(mesh)
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)),
    batch,
  )
