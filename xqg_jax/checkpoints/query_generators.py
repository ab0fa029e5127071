"""Query-generator checkpoints: mT5 or T5 1.1, tokenizer, configuration."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, TypedDict

import jax

from xqg_jax.checkpoints.folders import (
  CONFIG_FILE,
  GENERATOR_FILE,
  find_folder,
  save_model_files,
)
from xqg_jax.checkpoints.hugging_face.tensors import (
  SAFETENSORS_FILE,
  read_hf_tensors,
  write_safetensors,
)
from xqg_jax.checkpoints.placement import place_on
from xqg_jax.checkpoints.steps import find_checkpoint, load_params
from xqg_jax.checkpoints.t5x.layouts import T5xCheckpoint
from xqg_jax.checkpoints.t5x.networks import (
  load_t5x_tokenizer,
  load_tokenizer_at,
  open_t5x,
  open_t5x_network,
  place_tensors,
)
from xqg_jax.errors import InputError
from xqg_jax.io.files import fingerprint, read_json
from xqg_jax.io.paths import Path, absolute_path, to_path
from xqg_jax.models.parameters import (
  param_axes,
  param_shapes,
  params_fingerprint,
)
from xqg_jax.models.t5 import network
from xqg_jax.runtime.sharding import params_shardings
from xqg_jax.text.tokenizer import TOKENIZER_FILE, Tokenizer, load_tokenizer

_GENERATION_FILE = "generation_config.json"


@dataclasses.dataclass(frozen=True, eq=False)
class QueryGenerator:
  """A query generator ready for use: module, parameters, tokenizer.

  Attributes:
    config: of the network.
    module: the network.
    params: its parameters.
    tokenizer: its tokenizer.
    fingerprint: of all these.
    language_in: "prompt" or "decoder", as it was trained; None: not recorded.
    languages: codes of those it was trained for; None: not recorded.
  """

  config: network.T5Config
  module: network.T5
  params: Mapping[str, Any]
  tokenizer: Tokenizer
  fingerprint: str
  language_in: str | None = None
  languages: tuple[str, ...] | None = None

  @property
  def task(self) -> dict[str, Any] | None:
    """What was recorded of its training, as `save_model_files` takes it."""
    if self.language_in is None:
      return None
    return {
      "language_in": self.language_in,
      "languages": self.languages and list(self.languages),
    }


def load_query_generator(
  checkpoint_path: str | os.PathLike,
  *,
  tokenizer_path: str | os.PathLike | None = None,
  dtype: str = "float32",
  mesh: jax.sharding.Mesh | None = None,
) -> QueryGenerator:
  """Loads an mT5 or T5 1.1 query generator from a folder or from the hub.

  Args:
    checkpoint_path: as for `load_dual_encoder`; or a checkpoint of T5X, a
      folder `checkpoint_<step>` or the MODEL_DIR around it (its newest step),
      on disk or in a bucket (`gs://`).
    tokenizer_path: the tokenizer, where none lies beside the parameters, as
      with T5X: a SentencePiece model, a `tokenizer.json`, or a folder with one.
    dtype: of matrix products, "float32" or "bfloat16"; parameters are fp32.
    mesh: splits the parameters over its axis `model`, each tensor straight
      from the file; None: whole on the first local device.

  Raises:
    InputError: whatever is missing, damaged or does not fit together.
  """
  checkpoint = _find_t5x(checkpoint_path)
  if checkpoint is not None:
    loaded = _load_t5x(checkpoint, tokenizer_path, mesh)
  else:
    loaded = _load_folder(checkpoint_path, tokenizer_path, mesh)
  config, params, tokenizer = loaded
  config = dataclasses.replace(config, dtype=dtype)
  task = _read_task(checkpoint_path)
  languages = task.get("languages")
  return QueryGenerator(
    config=config,
    module=network.T5(config=config),
    params=params,
    tokenizer=tokenizer,
    fingerprint=_fingerprint(config, params, tokenizer),
    language_in=task.get("language_in"),
    languages=tuple(languages) if languages else None,
  )


class GeneratorTask(TypedDict, total=False):
  """Contents of `query_generator.json`: what a generator was trained for."""

  language_in: str | None
  languages: list[str] | None


def _read_task(checkpoint_path: str | os.PathLike) -> GeneratorTask:
  """What `xqg train` recorded in MODEL_DIR; nothing elsewhere."""
  path = absolute_path(checkpoint_path)
  for folder in (path, path.parent):
    if (folder / GENERATOR_FILE).is_file():
      return read_json(folder / GENERATOR_FILE, GeneratorTask)
  return {}


_Loaded = tuple[network.T5Config, Mapping[str, Any], Tokenizer]


def _find_t5x(checkpoint_path: str | os.PathLike) -> T5xCheckpoint | None:
  """Opens T5X's checkpoint; one of ours in the same folder goes first."""
  if find_checkpoint(checkpoint_path):
    return None
  return open_t5x(checkpoint_path)


def _load_t5x(
  checkpoint: T5xCheckpoint,
  tokenizer_path: str | os.PathLike | None,
  mesh: jax.sharding.Mesh | None,
) -> _Loaded:
  tokenizer = load_t5x_tokenizer(checkpoint.where, tokenizer_path)
  config, tensors = open_t5x_network(checkpoint)
  _check_vocabulary(tokenizer, config, checkpoint.where)
  if tokenizer.eos_id is not None:
    config = dataclasses.replace(config, eos_id=tokenizer.eos_id)
  module = network.T5(config=config)
  shapes = param_shapes(module)
  shardings = mesh and params_shardings(mesh, param_axes(module), shapes)
  return config, place_tensors(tensors, shardings), tokenizer


def _load_folder(
  checkpoint_path: str | os.PathLike,
  tokenizer_path: str | os.PathLike | None,
  mesh: jax.sharding.Mesh | None,
) -> _Loaded:
  folder, step = find_folder(checkpoint_path)
  values = _read_config(folder)
  config = network.T5Config.from_hf(values, where=folder / CONFIG_FILE)
  tokenizer = _find_tokenizer(folder, tokenizer_path)
  if values.get("pad_token_id") is None:
    config = _pad_as(tokenizer, config)
  _check_vocabulary(tokenizer, config, folder)
  module = network.T5(config=config)
  shapes = param_shapes(module)
  shardings = mesh and params_shardings(mesh, param_axes(module), shapes)
  if step is None:
    tensors = read_hf_tensors(folder)
    params = network.params_from_hf(tensors, config, place=place_on(shardings))
  else:
    params = load_params(step, shapes=shapes, sharding=shardings)
  return config, params, tokenizer


def _read_config(folder: Path) -> dict[str, Any]:
  """`config.json`, with the tokens that transformers would generate by."""
  values = read_json(folder / CONFIG_FILE, dict[str, Any])
  path = folder / _GENERATION_FILE
  chosen = read_json(path, dict[str, Any]) if path.exists() else {}
  names = ("pad_token_id", "eos_token_id", "decoder_start_token_id")
  given = {name: chosen[name] for name in names if chosen.get(name) is not None}
  return {**values, **given}


def _pad_as(tokenizer: Tokenizer, config: network.T5Config) -> network.T5Config:
  """Takes the tokenizer's padding; the decoder's first input stays."""
  if tokenizer.pad_id == config.pad_id:
    return config
  return dataclasses.replace(
    config, pad_id=tokenizer.pad_id, start_id=config.first_input
  )


def _find_tokenizer(
  folder: Path, tokenizer_path: str | os.PathLike | None
) -> Tokenizer:
  """The folder's tokenizer, or the one given where the folder has none."""
  if tokenizer_path is None:
    return load_tokenizer(folder)
  given = load_tokenizer_at(tokenizer_path)
  has_its_own = (folder / TOKENIZER_FILE).exists()
  if has_its_own and load_tokenizer(folder).fingerprint != given.fingerprint:
    raise InputError(
      "the checkpoint has a tokenizer of its own, which differs from it",
      where=folder,
      mend="leave TOKENIZER_PATH out",
    )
  return given


def _fingerprint(
  config: network.T5Config, params: Mapping[str, Any], tokenizer: Tokenizer
) -> str:
  constants = dataclasses.asdict(config)
  del constants["dtype"], constants["dropout_rate"]
  # Newer than the first fingerprints, and left out where they say nothing.
  for name in ("start_id", "other_eos_ids"):
    if not constants[name] and constants[name] != 0:
      del constants[name]
  return fingerprint(
    {
      "params": params_fingerprint(params),
      "tokenizer": tokenizer.fingerprint,
      "model": constants,
    }
  )


def _check_vocabulary(
  tokenizer: Tokenizer, config: network.T5Config, where: object
) -> None:
  if tokenizer.vocab_size > config.vocab_size:
    raise InputError(
      f"the tokenizer has {tokenizer.vocab_size} tokens, but the tensor "
      f"shared.weight has {config.vocab_size} rows",
      where=where,
      mend="take tokenizer and weights from one model",
    )


def export_query_generator(
  output_dir: str | os.PathLike, generator: QueryGenerator
) -> None:
  """Writes a query generator as a folder that transformers opens."""
  folder = to_path(output_dir)
  tensors = network.params_to_hf(generator.params, generator.config)
  write_safetensors(folder / SAFETENSORS_FILE, tensors)
  save_model_files(
    folder,
    model_config_hf=generator.config.to_hf(),
    tokenizer=generator.tokenizer,
    generator_task=generator.task,
  )
