"""A query generator that compiles in a moment, passages for it, and jobs."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp

from xqg_jax.checkpoints import save_model_files, save_params
from xqg_jax.data.languages import get_languages
from xqg_jax.data.passages import Passage, write_passages
from xqg_jax.models.t5 import network
from xqg_jax.text.prompts import make_decoder_start, make_prompt
from xqg_jax.text.tokenizer_training import train_tokenizer

PASSAGES = [
  Passage(f"p{n}", "The river rises in the hills. " * (1 + 2 * n), f"River {n}")
  for n in range(7)
]
OPTIONS = {
  "languages": ("fi", "te"),
  "num_queries": 3,
  "max_input_length": 48,
  "max_query_length": 8,
  "batch_size": 2,
  "shard_size": 3,
  "force": True,  # random parameters
}


def write_file(path: pathlib.Path, passages: list[Passage]) -> pathlib.Path:
  with open(path, "w", encoding="utf-8") as file:
    write_passages(file, passages)
  return path


def write_checkpoint(folder: pathlib.Path, task=None) -> pathlib.Path:
  """A tiny random model whose tokenizer knows a few words."""
  languages = get_languages(("fi", "te"))
  tokenizer = train_tokenizer(
    [
      *(make_prompt(p, language) for p in PASSAGES for language in languages),
      *(make_decoder_start(language) for language in languages),
    ],
    vocab_size=120,
    style="t5",
  )
  config = network.T5Config(
    vocab_size=tokenizer.vocab_size + 4,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=24,
    num_encoder_layers=1,
    num_decoder_layers=1,
  )
  module, row = network.T5(config=config), jnp.zeros((1, 4), jnp.int32)
  variables = jax.jit(module.init)(jax.random.key(0), row, row, row)
  save_model_files(
    folder,
    model_config_hf=config.to_hf(),
    tokenizer=tokenizer,
    generator_task=task,
  )
  save_params(folder, 1, variables["params"])
  return folder


def read_bytes(folder: pathlib.Path) -> dict[str, bytes]:
  """Every file of a folder, but for the locks, which are empty."""
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob("*"))
    if path.is_file() and not path.name.startswith(".lock")
  }


def start_job(
  folder: pathlib.Path, *flags: str, num_devices: int = 1, **options
):
  """Starts `xqg generate` over the passages of `folder`, as a process."""
  options = {
    "CHECKPOINT_PATH": folder / "model",
    "PASSAGES": folder / "passages.tsv",
    "FORCE": True,
    "LANGUAGES": ["fi"],
    "MAX_INPUT_LENGTH": 32,
    "MAX_QUERY_LENGTH": 4,
    **options,
  }
  environment = os.environ | {
    "XLA_FLAGS": f"--xla_force_host_platform_device_count={num_devices}",
    # Later processes find the programs of the first.
    "JAX_COMPILATION_CACHE_DIR": str(folder / "programs"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "TQDM_DISABLE": "1",
  }
  return subprocess.Popen(
    [
      *(sys.executable, "-m", "xqg_jax.cli.main", "generate", *flags),
      *(f"--gin.{name}={value}" for name, value in options.items()),
    ],
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )
