"""Sharding: the mesh, the table, and where the pieces of an array land."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tests.helpers.tiny_models import MODELS
from xqg_jax.errors import InputError
from xqg_jax.runtime import sharding
from xqg_jax.training.optimizers import make_optimizer
from xqg_jax.training.state import Trainer

FSDP = sharding.override_rules([("embed", "data")])

# ------------------------------------------------------------------------ mesh


def test_mesh_shape_and_axis_names():
  mesh = sharding.make_mesh(2)
  assert mesh.axis_names == ("data", "model")
  assert dict(mesh.shape) == {"data": 4, "model": 2}
  assert sharding.make_mesh().shape["data"] == 8
  one = sharding.make_mesh(devices=jax.devices()[:1])
  assert dict(one.shape) == {"data": 1, "model": 1}


@pytest.mark.parametrize("num_partitions", [0, 3, 16])
def test_mesh_refuses_what_does_not_divide(num_partitions):
  with pytest.raises(ValueError, match="num_partitions"):
    sharding.make_mesh(num_partitions)


@dataclasses.dataclass(frozen=True)
class FakeDevice:
  """As much of a device as a mesh looks at."""

  id: int
  process_index: int
  platform: str = "cpu"
  device_kind: str = "cpu"


def _arrange(num_partitions, *processes):
  """The processes of a mesh, and the part of a batch of each."""
  devices = [FakeDevice(*pair) for pair in enumerate(processes)]
  mesh = Mesh(sharding._arrange(devices, num_partitions), ("data", "model"))
  rows = [[device.process_index for device in row] for row in mesh.devices]
  return rows, [
    sharding.find_batch_part(mesh, number) for number in sorted(set(processes))
  ]


def test_devices_of_a_process_are_neighbours():
  # As on v5e:4x4, whose hosts have two by two chips, in reading order.
  rows, parts = _arrange(2, 0, 0, 1, 1, 0, 0, 1, 1)
  assert rows == [[0, 0], [0, 0], [1, 1], [1, 1]]
  assert parts == [(0, 2), (1, 2)]


def test_processes_of_one_copy_have_the_same_part():
  rows, parts = _arrange(4, 0, 0, 1, 1, 2, 2, 3, 3)
  assert rows == [[0, 0, 1, 1], [2, 2, 3, 3]]
  assert parts == [(0, 2), (0, 2), (1, 2), (1, 2)]


@pytest.mark.parametrize(
  ("num_partitions", "processes"),
  [(3, (0, 0, 1, 1, 2, 2)), (2, (0, 0, 1, 1, 1, 1))],
)
def test_unequal_processes_are_refused(num_partitions, processes):
  with pytest.raises(ValueError, match="cannot be put together to groups of"):
    _arrange(num_partitions, *processes)


def test_batch_must_divide():
  sharding.check_batch_size(sharding.make_mesh(2), 12)
  for size in (0, 6):
    with pytest.raises(InputError, match=f"BATCH_SIZE {size} cannot be split"):
      sharding.check_batch_size(sharding.make_mesh(2), size)


# ----------------------------------------------------------------------- table


@pytest.mark.parametrize(
  ("axes", "shape", "expected"),
  [
    (("vocab", "embed"), (24, 16), ("model", None)),
    (("embed", "heads", "kv"), (16, 4, 8), (None, "model", None)),
    ((None, "embed"), (4, 16), (None, None)),
    # XLM-R's table: the columns are split instead of the rows.
    (("vocab", "embed"), (250_002, 768), (None, "model")),
    # The longest axis that can be split, not the next one.
    (("heads", "kv", "embed"), (3, 8, 16), (None, None, "model")),
    # Nothing can be split: a copy everywhere.
    (("mlp",), (6,), (None,)),
    (("vocab", "embed"), (5, 3), (None, None)),
    # Both axes of the parameter are for `model`: the table's first has it.
    (("mlp", "vocab"), (8, 8), (None, "model")),
    (("mlp", "vocab"), (8, 6), ("model", None)),
  ],
)
def test_partition_specs_follow_the_table(axes, shape, expected):
  mesh_shape = {"data": 2, "model": 4}
  found = sharding.to_partition_spec(axes, shape, mesh_shape)
  assert found == PartitionSpec(*expected)


@pytest.mark.parametrize(
  ("overrides", "axes", "shape", "expected"),
  [
    ([("embed", "data")], ("embed", "mlp"), (16, 8), ("data", "model")),
    ([("embed", "data")], ("embed",), (3,), (None,)),
    # The rows go over neither mesh axis, the columns over both.
    (
      [("embed", "data")],
      ("vocab", "embed"),
      (250_002, 768),
      (None, ("data", "model")),
    ),
    # An override comes before the rest of the table.
    (
      [("embed", ("data", "model"))],
      ("embed", "mlp"),
      (16, 8),
      (("data", "model"), None),
    ),
    # Only one of the two fits; the other goes where the table has it.
    (
      [("embed", ["data", "model"])],
      ("embed", "mlp"),
      (4, 8),
      ("data", "model"),
    ),
    ([("vocab", None)], ("vocab", "embed"), (24, 16), (None, None)),
  ],
)
def test_overrides_come_first(overrides, axes, shape, expected):
  rules = sharding.override_rules(overrides)
  found = sharding.to_partition_spec(
    axes, shape, {"data": 4, "model": 4}, rules
  )
  assert found == PartitionSpec(*expected)


@pytest.mark.parametrize(
  ("overrides", "line"),
  [
    (("embed", "data"), "'embed' is not a pair of axes; AXIS_RULES looks like"),
    ([("embd", "data")], "no logical axis 'embd'; use one of vocab, mlp"),
    ([("batch", "model")], "no logical axis 'batch'; use one of vocab"),
    ([("embed", "date")], "'date' is not an axis of the mesh; use 'data'"),
  ],
)
def test_bad_overrides_are_one_line(overrides, line):
  with pytest.raises(InputError, match=line):
    sharding.override_rules(overrides)


def test_unknown_axis_is_an_error():
  with pytest.raises(ValueError, match="nonsense"):
    sharding.to_partition_spec(("nonsense",), (8,), {"data": 2, "model": 4})


# ---------------------------------------------------------------------- arrays


def test_params_land_in_pieces_and_batches_in_rows():
  mesh = sharding.make_mesh(2)
  axes = {"wi": ("embed", "mlp"), "scale": PartitionSpec("embed")}
  params = {"wi": np.arange(24.0).reshape(4, 6), "scale": np.ones(4)}
  shardings = sharding.params_shardings(mesh, axes, params)
  placed = jax.device_put(params, shardings)
  assert placed["wi"].addressable_shards[0].data.shape == (4, 3)
  assert placed["scale"].addressable_shards[0].data.shape == (4,)
  batch = sharding.shard_batch(mesh, {"x": np.arange(8).reshape(8, 1)})
  shards = {s.device.id: s.data.tolist() for s in batch["x"].addressable_shards}
  assert shards[0] == shards[1] == [[0], [1]]
  assert shards[7] == [[6], [7]]
  np.testing.assert_array_equal(placed["wi"], params["wi"])


def test_moments_lie_as_their_parameters():
  mesh = sharding.make_mesh(2)
  params = {
    "wi": jax.ShapeDtypeStruct((256, 512), jnp.float32),
    "scale": jax.ShapeDtypeStruct((256,), jnp.float32),
  }
  axes = {"wi": ("embed", "mlp"), "scale": ("embed",)}
  shardings = sharding.params_shardings(mesh, axes, params, FSDP)
  found = {}
  for name in ("adamw", "adafactor"):
    optimizer = make_optimizer(optimizer=name, learning_rate=1.0)
    shapes = jax.eval_shape(optimizer.init, params)
    places = sharding.moments_shardings(shapes, params, shardings)
    for (path, leaf), place in zip(
      jax.tree.leaves_with_path(shapes), jax.tree.leaves(places), strict=True
    ):
      key = jax.tree_util.keystr(path[-2:], simple=True, separator="/")
      found[name, key, leaf.shape] = place.spec
  assert found["adamw", "mu/wi", (256, 512)] == PartitionSpec("data", "model")
  assert found["adamw", "nu/scale", (256,)] == PartitionSpec("data")
  factors = {
    key[1:]: spec for key, spec in found.items() if key[0] == "adafactor"
  }
  assert factors["v_row/wi", (256,)] == PartitionSpec("data")
  assert factors["v_col/wi", (512,)] == PartitionSpec("model")
  assert factors["v/scale", (256,)] == PartitionSpec("data")
  assert factors["v/wi", (1,)] == PartitionSpec()


def test_rows_of_activations_stay_split():
  mesh = sharding.make_mesh(2)
  table = jax.device_put(
    np.ones((16, 32), np.float32),
    NamedSharding(mesh, PartitionSpec(None, "data")),
  )
  tokens = sharding.shard_batch(mesh, np.zeros((8, 4), np.int32))

  def by_row(table, tokens):
    def look_up(row):
      return sharding.split_rows(table[row[None]])[0]

    return jax.vmap(look_up, spmd_axis_name="data")(tokens)

  for look_up in (lambda table, rows: sharding.split_rows(table[rows]), by_row):
    found = jax.jit(look_up)(table, tokens)
    assert found.sharding.spec == PartitionSpec("data")
  # Without a mesh, and with rows that it does not divide.
  x = jnp.ones((3, 4, 5))
  assert sharding.split_rows(x) is x
  placed = jax.device_put(x, sharding.replicated(mesh))
  np.testing.assert_array_equal(jax.jit(sharding.split_rows)(placed), x)


# ---------------------------------------------------------------- whole models

LENGTHS = {
  "dual_encoder": None,
  "generation": {"inputs": 16, "targets": 10},
}


def _make_batch(model, batch_size=8):
  lengths = model.get_feature_lengths(LENGTHS[model.task_kind])
  rng = np.random.default_rng(0)

  def fill(shape):
    tokens = rng.integers(4, 200, shape).astype(np.int32)
    kept = rng.integers(2, shape[-1] + 1, (*shape[:-1], 1))
    return np.where(np.arange(shape[-1]) < kept, tokens, 0).astype(np.int32)

  shapes = model.batch_shapes(lengths, batch_size)
  return {name: fill(leaf.shape) for name, leaf in shapes.items()}


def _take_steps(trainer, params, batch, count=3):
  state = trainer.init_state(params)
  losses = []
  for _ in range(count):
    state, metrics = trainer.step(
      state, sharding.shard_batch(trainer.mesh, batch)
    )
    losses.append(float(metrics["loss"]))
  return state, losses


def _count_bytes(tree):
  """Bytes of a tree on the first device."""
  return sum(
    leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree)
  )


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compiler")
@pytest.mark.parametrize("kind", MODELS)
def test_sharded_steps_equal_those_of_one_device(kind):
  """With dropout, on any mesh, with parameters copied or split over `data`."""
  model, _ = MODELS[kind]().complete(None)
  # Plain gradient descent: Adam's first steps blow tiny differences up.
  optimizer = optax.sgd(0.05, momentum=0.5)
  batch = _make_batch(model)
  params = jax.device_get(jax.jit(model.init)(jax.random.key(0)))
  one = Trainer(model, optimizer, sharding.make_mesh(1, jax.devices()[:1]), 0)
  expected, losses = _take_steps(one, params, batch)
  for num_partitions, rules in (
    (1, FSDP),
    (2, sharding.LOGICAL_AXIS_RULES),
    (4, FSDP),
  ):
    mesh = sharding.make_mesh(num_partitions)
    trainer = Trainer(model, optimizer, mesh, 0, rules)
    state, found = _take_steps(trainer, params, batch)
    np.testing.assert_allclose(found, losses, atol=1e-6)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
      jax.device_get(state.params),
      jax.device_get(expected.params),
    )
    if num_partitions == 1:
      # Of parameters and momentum; biases are not split.
      assert _count_bytes(state) < 1.1 / 8 * _count_bytes(expected)
