"""Parameters on their devices: values, splits, and memory on the way."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests.helpers import tiny_t5
from xqg_jax import checkpoints
from xqg_jax.checkpoints.placement import place_on
from xqg_jax.models.t5 import network
from xqg_jax.runtime.sharding import make_mesh
from xqg_jax.text.tokenizer_training import train_tokenizer

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
@pytest.mark.skipif(
  not os.path.exists("/proc/self/status"),  # noqa: PTH110
  reason="memory is read from Linux's /proc",
)
def test_loading_holds_little_beside_the_parameters():
  script = BENCHMARKS / "loading_memory.py"
  done = subprocess.run(
    [sys.executable, str(script), "--size", "narrow"],
    capture_output=True,
    text=True,
    env={**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"},
  )
  assert done.returncode == 0, done.stderr
  memory = json.loads(done.stdout.splitlines()[-1])
  assert memory["largest"] == 250_112 * 128 * 4
  assert memory["extra"] < 1.3 * memory["largest"]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_values_and_dtype(dtype):
  value = np.arange(12).reshape(3, 4).astype(dtype).T
  placed = place_on(None)("a/kernel", value)
  assert placed.dtype == np.float32
  assert placed.devices() == {jax.local_devices()[0]}
  np.testing.assert_array_equal(placed, value.astype(np.float32))


def test_tensors_are_split_as_they_are_read():
  read = []

  class Stored(np.ndarray):
    def __getitem__(self, index):
      read.append(index)
      return np.asarray(self)[index]

  sharding = NamedSharding(make_mesh(8), PartitionSpec(None, "model"))
  value = np.arange(64, dtype=np.float32).reshape(4, 16).view(Stored)
  placed = place_on({"wi": {"kernel": sharding}})("wi/kernel", value)
  assert placed.sharding == sharding
  np.testing.assert_array_equal(placed, np.asarray(value))
  # One device after another, two columns each.
  columns = [index[1].indices(16)[:2] for index in read]
  assert sorted(columns) == [(i, i + 2) for i in range(0, 16, 2)]


def test_parameters_do_not_follow_the_file(tmp_path):
  path = tmp_path / "values"
  path.write_bytes(np.ones(4096, np.float32).tobytes())
  mapped = np.memmap(path, np.float32, "r")
  placed = place_on(None)("a", mapped)
  with path.open("r+b") as file:
    file.write(np.zeros(4096, np.float32).tobytes())
  assert mapped[0] == 0
  np.testing.assert_array_equal(placed, np.ones(4096, np.float32))


@pytest.mark.slow
def test_a_loaded_generator_is_split_over_a_mesh(tmp_path):
  torch_model = tiny_t5.untie(tiny_t5.make_torch_model(tiny_t5.SHAPES[2]))
  module, params = tiny_t5.to_ours(torch_model)
  words = train_tokenizer(["the old mill"], vocab_size=40, style="t5")
  checkpoints.save_model_files(
    tmp_path, model_config_hf=module.config.to_hf(), tokenizer=words
  )
  checkpoints.write_safetensors(
    tmp_path / "model.safetensors", network.params_to_hf(params, module.config)
  )
  whole = checkpoints.load_query_generator(tmp_path)
  split = checkpoints.load_query_generator(tmp_path, mesh=make_mesh(2))
  kernel = split.params["encoder"]["layers_0"]["mlp"]["wi_0"]["kernel"]
  assert kernel.sharding.spec == PartitionSpec(None, "model")
  assert kernel.addressable_shards[0].data.shape == (20, 14)
  jax.tree.map(np.testing.assert_array_equal, split.params, whole.params)
  assert split.fingerprint == whole.fingerprint
