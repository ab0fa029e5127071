"""Device mesh, and sharding rules from logical axes to its axes.

One table says how every array is laid out: try another layout by passing
another table, not by changing the model. The axis names are T5X's.
"""

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from xqg_jax.errors import InputError

# jaxlib has no stubs, and an unknown class is none that a type checker takes.
Device: TypeAlias = jax.Device  # pyright: ignore[reportInvalidTypeForm]

DATA, MODEL = "data", "model"
_FREE = PartitionSpec.UNCONSTRAINED

# (logical axis, mesh axis, or several, or None = replicated), as T5X has it.
MeshAxes = str | Sequence[str] | None
AxisRules = Sequence[tuple[str, MeshAxes]]
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


# ------------------------------------------------------------------------ mesh


def make_mesh(
  num_partitions: int = 1, devices: Sequence[Device] | None = None
) -> Mesh:
  """Makes the mesh with the axes `data` and `model`.

  Devices of one process are neighbours in it, so that a process reads rows of
  the batch that lie together, and those that share a copy of the parameters
  belong to one process if it has enough of them, else to neighbouring ones.

  Args:
    num_partitions: size of the axis `model`, over which parameters are split;
      the other devices hold copies and share the batch.
    devices: the devices; all of all processes when absent.

  Returns:
    A mesh of shape [len(devices) / num_partitions, num_partitions].

  Raises:
    ValueError: the number of devices is no multiple of `num_partitions`, or
      processes cannot be put together to groups of so many.
  """
  devices = jax.devices() if devices is None else devices
  return Mesh(_arrange(devices, num_partitions), (DATA, MODEL))


def _arrange(devices: Sequence[Any], num_partitions: int) -> np.ndarray:
  """The devices of a mesh by process, [data, model]."""
  if num_partitions < 1 or len(devices) % num_partitions:
    raise ValueError(
      f"{len(devices)} devices cannot be split into groups of "
      f"num_partitions={num_partitions}"
    )
  counts = collections.Counter(device.process_index for device in devices)
  size = min(counts.values())
  nest = num_partitions % size == 0 or size % num_partitions == 0
  # Else processes would have parts of a batch of different sizes.
  if len(counts) > 1 and not (nest and size == max(counts.values())):
    raise ValueError(
      f"processes with {', '.join(map(str, counts.values()))} devices cannot "
      f"be put together to groups of num_partitions={num_partitions}"
    )
  by_process = sorted(devices, key=lambda device: device.process_index)
  return np.array(by_process).reshape(-1, num_partitions)


def find_batch_part(
  mesh: Mesh, process_index: int | None = None
) -> tuple[int, int]:
  """The part of each batch that a process has to give to `shard_batch`.

  Args:
    mesh: as `make_mesh` makes it.
    process_index: which process; None: this one.

  Returns:
    The part's number, and of how many parts. Processes whose devices together
    hold one copy of the parameters have the same part.
  """
  wanted = jax.process_index() if process_index is None else process_index
  holders = [{device.process_index for device in row} for row in mesh.devices]
  parts = [h for i, h in enumerate(holders) if i == 0 or h != holders[i - 1]]
  number = next(i for i, part in enumerate(parts) if wanted in part)
  return number, len(parts)


def check_batch_size(mesh: Mesh, batch_size: int) -> None:
  """Refuses a batch that cannot be split alike over the axis `data`.

  Raises:
    InputError: it cannot; this includes the split over processes.
  """
  if batch_size < 1 or batch_size % mesh.shape[DATA]:
    raise InputError(
      f"BATCH_SIZE {batch_size} cannot be split over {mesh.shape[DATA]} "
      "groups of devices",
      mend="choose a multiple",
    )


# ----------------------------------------------------------------------- table


def override_rules(overrides: Sequence[Sequence[Any]]) -> AxisRules:
  """The table with some of its entries replaced.

  Args:
    overrides: pairs of a logical axis and a mesh axis, several mesh axes, or
      None for a copy everywhere. Where two axes of one parameter name the same
      mesh axis, the one that comes first has it; overrides come first.

  Raises:
    InputError: not such pairs, or a name that is unknown.

  >>> dict(override_rules([("embed", "data")]))["embed"]
  ('data',)
  """
  known = dict(LOGICAL_AXIS_RULES)
  mend = 'AXIS_RULES looks like (("embed", "data"),)'
  table = {}
  for rule in overrides:
    if isinstance(rule, str) or len(rule) != 2:
      raise InputError(f"{rule!r} is not a pair of axes", mend=mend)
    name, mesh_axes = rule[0], _as_tuple(rule[1])
    if name not in known or name == "batch":
      rest = ", ".join(axis for axis in known if axis != "batch")
      raise InputError(f"no logical axis {name!r}", mend=f"use one of {rest}")
    if not set(mesh_axes) <= {DATA, MODEL}:
      raise InputError(
        f"{rule[1]!r} is not an axis of the mesh",
        mend=f"use {DATA!r}, {MODEL!r}, both or None; {mend}",
      )
    table[name] = mesh_axes
  return (*table.items(), *((k, v) for k, v in known.items() if k not in table))


def _as_tuple(mesh_axes: MeshAxes) -> tuple[str, ...]:
  if mesh_axes is None:
    return ()
  return (mesh_axes,) if isinstance(mesh_axes, str) else tuple(mesh_axes)


def to_partition_spec(
  axes: Sequence[str | None],
  shape: Sequence[int],
  mesh_shape: Mapping[str, int],
  rules: AxisRules = LOGICAL_AXIS_RULES,
) -> PartitionSpec:
  """Says over which mesh axes each axis of one parameter is split.

  A mesh axis that does not divide the axis that the table has for it goes to
  another axis of the same parameter, the longest that it divides; if there is
  none, the parameter is copied along it.

  Args:
    axes: logical names; None for an axis that is never split.
    shape: their lengths.
    mesh_shape: devices along each mesh axis.
    rules: the table.

  Raises:
    ValueError: a name that is not in the table.

  >>> mesh_shape = {"data": 4, "model": 4}
  >>> tuple(to_partition_spec(("embed", "mlp"), (768, 3072), mesh_shape))
  (None, 'model')
  >>> tuple(to_partition_spec(("vocab", "embed"), (250002, 768), mesh_shape))
  (None, 'model')
  """
  table = dict(rules)
  unknown = [axis for axis in axes if axis is not None and axis not in table]
  if unknown:
    raise ValueError(f"no sharding rule for the logical axes {unknown}")
  wishes = [
    (index, mesh_axis)
    for name in table
    for index, axis in enumerate(axes)
    for mesh_axis in _as_tuple(table[name])
    if axis == name
  ]
  places = _find_places(wishes, shape, mesh_shape)
  split = [
    tuple(mesh_axis for mesh_axis, place in places.items() if place == index)
    for index in range(len(axes))
  ]
  return PartitionSpec(
    *(names[0] if len(names) == 1 else names or None for names in split)
  )


def _find_places(
  wishes: Sequence[tuple[int, str]],
  shape: Sequence[int],
  mesh_shape: Mapping[str, int],
) -> dict[str, int]:
  """Finds an axis of a parameter for each mesh axis that is wished for.

  Args:
    wishes: number of the parameter's axis, and mesh axis; the first ones count
      most.
    shape: of the parameter.
    mesh_shape: devices along each mesh axis.
  """
  places: dict[str, int] = {}
  parts = list(shape)  # what one device holds

  def place(mesh_axis: str, indices: Iterable[int]) -> None:
    for index in indices:
      if parts[index] % mesh_shape[mesh_axis] == 0 and mesh_axis not in places:
        places[mesh_axis] = index
        parts[index] //= mesh_shape[mesh_axis]

  for index, mesh_axis in wishes:
    place(mesh_axis, [index])
  for _, mesh_axis in wishes:
    place(mesh_axis, sorted(range(len(parts)), key=lambda i: -parts[i]))
  return places


# ------------------------------------------------------------------- shardings


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding of an array that every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """The sharding of an array whose first axis is split over `data`."""
  return NamedSharding(mesh, PartitionSpec(DATA))


def params_shardings(
  mesh: Mesh,
  axes_tree: Any,
  shapes: Any,
  rules: AxisRules = LOGICAL_AXIS_RULES,
) -> Any:
  """Maps a tree of logical axis names to a tree of shardings.

  Args:
    mesh: the mesh.
    axes_tree: as the params, each leaf a tuple or `PartitionSpec` of logical
      axis names (`flax.linen.partitioning.get_axis_names` makes such a tree).
    shapes: as the params, each leaf with a `shape`.
    rules: the table.
  """
  return jax.tree.map(
    lambda axes, leaf: NamedSharding(
      mesh, to_partition_spec(tuple(axes), leaf.shape, mesh.shape, rules)
    ),
    axes_tree,
    shapes,
    is_leaf=lambda node: isinstance(node, (tuple, PartitionSpec)),
  )


def moments_shardings(moments: Any, params: Any, shardings: Any) -> Any:
  """Lays an optimizer's arrays out as the parameters that they belong to.

  An array belongs to the parameter with whose path its own path ends. If one
  axis is missing, as in Adafactor's factors, the others lie as the parameter's
  do; arrays of no parameter lie whole on every device.

  Args:
    moments: shapes of the optimizer's state.
    params: shapes of the parameters.
    shardings: `NamedSharding`s of the parameters.
  """
  known = {
    path: (leaf.shape, sharding)
    for (path, leaf), sharding in zip(
      jax.tree.leaves_with_path(params),
      jax.tree.leaves(shardings),
      strict=True,
    )
  }
  everywhere = replicated(jax.tree.leaves(shardings)[0].mesh)

  def find(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
    for start in range(len(path)):
      if path[start:] in known:
        return _drop_axis(*known[path[start:]], leaf.shape) or everywhere
    return everywhere

  return jax.tree.map_with_path(find, moments)


def _drop_axis(
  shape: tuple[int, ...], sharding: NamedSharding, wanted: tuple[int, ...]
) -> NamedSharding | None:
  """The sharding of an array that has at most one axis less than `shape`."""
  if shape == wanted:
    return sharding
  spec = (*sharding.spec, *(None,) * (len(shape) - len(sharding.spec)))
  for index in range(len(shape)):
    if shape[:index] + shape[index + 1 :] == wanted:
      rest = spec[:index] + spec[index + 1 :]
      return NamedSharding(sharding.mesh, PartitionSpec(*rest))
  return None


# ----------------------------------------------------------------------- arrays


def shard_batch(mesh: Mesh, batch: Any) -> Any:
  """Puts a tree of host arrays on the devices, first axes split over `data`.

  Over several processes each gives its own part (`find_batch_part`).
  """
  sharding = batch_sharding(mesh)
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)),
    batch,
  )


def place_copies(tree: Any, shardings: Any) -> Any:
  """Lays out arrays of which every process holds a whole copy.

  Args:
    tree: arrays on the host or on this process's devices, alike everywhere.
    shardings: where they shall lie, over the devices of all processes.
  """
  if jax.process_count() == 1:
    return jax.device_put(tree, shardings)

  def place(x: Any, sharding: NamedSharding) -> Any:
    host = np.asarray(x)
    return jax.make_array_from_callback(
      host.shape, sharding, lambda index: host[index]
    )

  return jax.tree.map(place, tree, shardings)


def split_rows(
  x: Float[Array, "rows length embed"],
) -> Float[Array, "rows length embed"]:
  """Keeps rows of activations split over `data` inside a jitted function.

  Where parameters are split over `data`, too, the compiler would else be free
  to split activations as the parameters are, and give every device the whole
  batch. Nothing is changed where there is no mesh, or one that does not divide
  the rows. Under `jax.vmap(..., spmd_axis_name=DATA)` the mapped axis is kept
  split instead.
  """
  mesh = jax.typeof(x).sharding.mesh
  kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
  if kinds.get(DATA) != AxisType.Auto or mesh.size == 1:
    return x
  size = mesh.shape[DATA]
  rows = DATA if size > 1 and x.shape[0] % size == 0 else _FREE
  return jax.lax.with_sharding_constraint(
    x, NamedSharding(mesh, PartitionSpec(rows, None, None))
  )
