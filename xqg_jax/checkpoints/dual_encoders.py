"""Dual encoders in a folder, whole."""

import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from xqg_jax.checkpoints.folders import (
  CONFIG_FILE,
  DUAL_ENCODER_FILE,
  find_folder,
  save_model_files,
)
from xqg_jax.checkpoints.placement import place_on
from xqg_jax.checkpoints.sentence_transformers import (
  read_pooling,
  write_pooling,
)
from xqg_jax.checkpoints.steps import load_params
from xqg_jax.checkpoints.tensors import (
  SAFETENSORS_FILE,
  read_hf_tensors,
  write_safetensors,
)
from xqg_jax.errors import InputError
from xqg_jax.files import read_json
from xqg_jax.models import bert
from xqg_jax.models.dual_encoder import (
  DualEncoder,
  DualEncoderConfig,
  make_dual_encoder,
)
from xqg_jax.models.parameters import param_axes, param_shapes
from xqg_jax.sharding import params_shardings
from xqg_jax.tokenizers import load_tokenizer

_ENCODER_GINS = " or ".join(
  f"gin_configs/encoders/{name}.gin" for name in ("e5", "mbert", "xlmr")
)


def load_dual_encoder(
  checkpoint_path: str | os.PathLike,
  *,
  config: DualEncoderConfig | None = None,
  dtype: Any = jnp.float32,
  mesh: jax.sharding.Mesh | None = None,
) -> DualEncoder:
  """Loads a dual encoder from a folder or from the hub.

  Args:
    checkpoint_path: a Hugging Face folder or hub name, our MODEL_DIR, or one
      of its `checkpoint_<step>`.
    config: pooling, prefixes and lengths; None takes those that the folder
      states (`dual_encoder.json`, or sentence-transformers' `modules.json`).
    dtype: of matrix products; parameters are fp32.
    mesh: splits the parameters over its axis `model`, each tensor straight
      from the file; None: whole on the first local device.

  Raises:
    InputError: whatever is missing, damaged or does not fit together.
  """
  folder, step = find_folder(checkpoint_path)
  values = read_json(folder / CONFIG_FILE)
  model_config = bert.BertConfig.from_hf(values, where=folder / CONFIG_FILE)
  config = config or _read_config(folder)
  tokenizer = load_tokenizer(folder)
  module = bert.BertEncoder(model_config)
  shardings = mesh and params_shardings(mesh, param_axes(module))
  if step is None:
    params = bert.params_from_hf(
      read_hf_tensors(folder), model_config, place=place_on(shardings)
    )
  else:
    params = load_params(step, shapes=param_shapes(module), sharding=shardings)
  return make_dual_encoder(
    model_config=model_config,
    params=params,
    config=config,
    tokenizer=tokenizer,
    dtype=dtype,
  )


def _read_config(folder: pathlib.Path) -> DualEncoderConfig:
  path = folder / DUAL_ENCODER_FILE
  if path.exists():
    try:
      return DualEncoderConfig(**read_json(path))
    except TypeError as error:
      raise InputError(
        f"not a dual encoder's configuration ({error})",
        where=path,
        mend="give ENCODER instead, or write the file again",
      ) from None
  config = read_pooling(folder)
  if config is None:
    raise InputError(
      "the folder does not say how its encoder pools",
      where=folder,
      mend=f"add --gin_file={_ENCODER_GINS}, whichever the model is",
    )
  return config


def export_dual_encoder(
  output_dir: str | os.PathLike, encoder: DualEncoder
) -> None:
  """Writes a dual encoder as a folder that transformers opens.

  It also opens in sentence-transformers, with its pooling.
  """
  folder, model_config = pathlib.Path(output_dir), encoder.module.config
  tensors = bert.params_to_hf(encoder.params, model_config)
  write_pooling(folder, encoder.config, dim=encoder.dim)
  write_safetensors(folder / SAFETENSORS_FILE, tensors)
  save_model_files(
    folder,
    model_config_hf=model_config.to_hf(),
    tokenizer=encoder.tokenizer,
    dual_encoder_config=encoder.config,
  )
