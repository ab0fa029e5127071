"""Sharding: the mesh, the table, and where the pieces of an array land."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from xqg_jax import sharding


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


def test_partition_specs_follow_the_table():
  spec = sharding.to_partition_spec
  assert spec(("vocab", "embed")) == PartitionSpec("model", None)
  assert spec(("embed", "heads", "kv")) == PartitionSpec(None, "model", None)
  assert spec((None, "embed")) == PartitionSpec(None, None)
  assert spec(("batch",), (("batch", None),)) == PartitionSpec(None)


def test_partition_spec_errors():
  with pytest.raises(ValueError, match="nonsense"):
    sharding.to_partition_spec(("nonsense",))
  with pytest.raises(ValueError, match="one mesh axis"):
    sharding.to_partition_spec(("vocab", "mlp"))


def test_params_land_in_pieces_and_batches_in_rows():
  mesh = sharding.make_mesh(2)
  axes = {"wi": ("embed", "mlp"), "scale": PartitionSpec("embed")}
  params = {"wi": np.arange(24.0).reshape(4, 6), "scale": np.ones(4)}
  shardings = sharding.params_shardings(mesh, axes)
  placed = jax.device_put(params, shardings)
  assert placed["wi"].addressable_shards[0].data.shape == (4, 3)
  assert placed["scale"].addressable_shards[0].data.shape == (4,)
  batch = sharding.shard_batch(mesh, {"x": np.arange(8).reshape(8, 1)})
  shards = {s.device.id: s.data.tolist() for s in batch["x"].addressable_shards}
  assert shards[0] == shards[1] == [[0], [1]]
  assert shards[7] == [[6], [7]]
  np.testing.assert_array_equal(placed["wi"], params["wi"])


def test_sharded_matmul_equals_unsharded():
  mesh = sharding.make_mesh(4)
  rng = np.random.default_rng(0)
  x, w = rng.normal(size=(6, 8)), rng.normal(size=(8, 12))
  x_sharded = sharding.shard_batch(mesh, x)
  w_sharded = jax.device_put(
    w, sharding.params_shardings(mesh, ("embed", "mlp"))
  )
  product = jax.jit(lambda a, b: a @ b)(x_sharded, w_sharded)
  np.testing.assert_allclose(product, x @ w, rtol=1e-5, atol=1e-5)
