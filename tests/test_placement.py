"""Parameters on their devices: values, splits, and memory on the way."""

import json
import os
import subprocess
import sys

import jax
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from xqg_jax import checkpoints
from xqg_jax.checkpoints.placement import place_on
from xqg_jax.models import t5
from xqg_jax.models.parameters import param_shapes
from xqg_jax.sharding import make_mesh
from xqg_jax.tokenizers import train_tokenizer

# Few layers and narrow, with mT5's own vocabulary: like the real ones, its
# two tables are most of it.
WIDE = t5.T5Config(
  vocab_size=250_112,
  emb_dim=128,
  num_heads=2,
  head_dim=64,
  mlp_dim=256,
  num_encoder_layers=1,
  num_decoder_layers=1,
)

# Loads a query generator in a process of its own and prints, in bytes, the
# peak of the memory that belongs to no file, beyond what it held before and
# the parameters themselves.
MEASURE = """
import json, re, sys, threading, time
import jax
from xqg_jax.checkpoints import load_query_generator

def own_memory():
  with open("/proc/self/status") as file:
    found = re.search(r"RssAnon:\\s+(\\d+) kB", file.read())
  return int(found[1]) * 1024

def watch():
  while not done.wait(0.001):
    peak[0] = max(peak[0], own_memory())

jax.numpy.zeros(1).block_until_ready()
before, peak, done = own_memory(), [0], threading.Event()
watcher = threading.Thread(target=watch)
watcher.start()
generator = load_query_generator(sys.argv[1])
done.set()
watcher.join()
sizes = [x.nbytes for x in jax.tree.leaves(generator.params)]
print(json.dumps(
  {"extra": peak[0] - before - sum(sizes), "largest": max(sizes)}
))
"""


def write_random_mt5(folder, config):
  """A Hugging Face folder of random tensors, written one after another."""
  shapes = param_shapes(t5.T5(config=config))
  rng = np.random.default_rng(0)
  block = rng.normal(size=2**20).astype(np.float32)
  params = jax.tree.map(
    lambda x: np.resize(block, x.shape).astype(np.float32), shapes
  )
  tensors = t5.params_to_hf(params, config)
  folder.mkdir(exist_ok=True)
  checkpoints.write_safetensors(folder / "model.safetensors", tensors)
  words = train_tokenizer(["the old mill"], vocab_size=40, style="t5")
  checkpoints.save_model_files(
    folder, model_config_hf=config.to_hf(), tokenizer=words
  )


@pytest.mark.slow
@pytest.mark.skipif(
  not os.path.exists("/proc/self/status"),  # noqa: PTH110
  reason="memory is read from Linux's /proc",
)
def test_loading_holds_little_beside_the_parameters(tmp_path):
  write_random_mt5(tmp_path / "mt5", WIDE)
  done = subprocess.run(
    [sys.executable, "-c", MEASURE, str(tmp_path / "mt5")],
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
  config = t5.T5Config(
    vocab_size=64,
    emb_dim=16,
    num_heads=4,
    head_dim=4,
    mlp_dim=24,
    num_encoder_layers=1,
    num_decoder_layers=1,
  )
  write_random_mt5(tmp_path / "mt5", config)
  whole = checkpoints.load_query_generator(tmp_path / "mt5")
  split = checkpoints.load_query_generator(tmp_path / "mt5", mesh=make_mesh(4))
  kernel = split.params["encoder"]["layers_0"]["mlp"]["wi_0"]["kernel"]
  assert kernel.sharding.spec == PartitionSpec(None, "model")
  assert kernel.addressable_shards[0].data.shape == (16, 6)
  jax.tree.map(np.testing.assert_array_equal, split.params, whole.params)
  assert split.fingerprint == whole.fingerprint
