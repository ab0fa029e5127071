"""Memory that loading a query generator takes beside its parameters.

  python benchmarks/loading_memory.py --size large

writes a random safetensors file of that shape of mT5, loads it in a process of
its own and prints JSON, sizes in bytes: `extra` is the peak of the memory that
belongs to no file, beyond what the process held before and the parameters;
`largest` is the largest tensor. Linux only: memory is read from /proc.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import threading

import jax
import numpy as np

from xqg_jax.checkpoints import (
  load_query_generator,
  save_model_files,
  write_safetensors,
)
from xqg_jax.models.parameters import param_shapes
from xqg_jax.models.t5 import network
from xqg_jax.text.tokenizer_training import train_tokenizer

# Few layers and narrow, with mT5's own vocabulary: like the real ones, its two
# tables are most of it.
NARROW = network.T5Config(
  vocab_size=250_112,
  emb_dim=128,
  num_heads=2,
  head_dim=64,
  mlp_dim=256,
  num_encoder_layers=1,
  num_decoder_layers=1,
)
SIZES = {"narrow": NARROW, **network.MT5_SIZES}


def write_random_mt5(folder: pathlib.Path, config: network.T5Config) -> None:
  """Writes a Hugging Face folder with random tensors."""
  block = np.random.default_rng(0).normal(size=2**20).astype(np.float32)
  params = jax.tree.map(
    lambda x: np.resize(block, x.shape), param_shapes(network.T5(config=config))
  )
  folder.mkdir(exist_ok=True)
  tensors = network.params_to_hf(params, config)
  write_safetensors(folder / "model.safetensors", tensors)
  words = train_tokenizer(["the old mill"], vocab_size=40, style="t5")
  save_model_files(folder, model_config_hf=config.to_hf(), tokenizer=words)


def read_own_memory() -> int:
  """Bytes of this process's memory that belong to no file."""
  status = pathlib.Path("/proc/self/status").read_text()
  return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) * 1024


def measure(folder: str) -> dict[str, int]:
  """Loads the model of a folder and watches this process's memory."""
  jax.numpy.zeros(1).block_until_ready()
  before, peak, done = read_own_memory(), [0], threading.Event()

  def watch() -> None:
    while not done.wait(0.001):
      peak[0] = max(peak[0], read_own_memory())

  watcher = threading.Thread(target=watch)
  watcher.start()
  generator = load_query_generator(folder)
  done.set()
  watcher.join()
  sizes = [x.nbytes for x in jax.tree.leaves(generator.params)]
  return {"extra": peak[0] - before - sum(sizes), "largest": max(sizes)}


def main() -> None:
  """Runs the measurement and prints it."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--size", choices=list(SIZES), default="large")
  parser.add_argument("--folder", help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  if arguments.folder:
    print(json.dumps(measure(arguments.folder)))
    return
  with tempfile.TemporaryDirectory() as folder:
    write_random_mt5(pathlib.Path(folder, "mt5"), SIZES[arguments.size])
    command = [sys.executable, __file__, "--folder", f"{folder}/mt5"]
    sys.exit(subprocess.run(command).returncode)


if __name__ == "__main__":
  main()
