"""Whole models in a folder: configuration, tokenizer and parameters.

A CHECKPOINT_PATH is one of
  - a Hugging Face folder: `config.json`, weights, tokenizer;
  - our MODEL_DIR: `config.json`, `tokenizer.json`, `dual_encoder.json` (dual
    encoders only) and `checkpoint_<step>/params`; the newest step is taken;
  - `MODEL_DIR/checkpoint_<step>`;
  - the name of a model on the Hugging Face hub.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from xqg_jax.checkpoints.sentence_transformers import (
  read_pooling,
  write_pooling,
)
from xqg_jax.checkpoints.steps import find_checkpoint, load_params
from xqg_jax.checkpoints.tensors import (
  SAFETENSORS_FILE,
  find_hf_weights,
  read_hf_tensors,
  write_safetensors,
)
from xqg_jax.errors import InputError
from xqg_jax.files import fingerprint, read_json, write_json
from xqg_jax.models import bert
from xqg_jax.models.dual_encoder import (
  DualEncoder,
  DualEncoderConfig,
  init_params,
  make_dual_encoder,
  params_fingerprint,
)
from xqg_jax.tokenizers import Tokenizer, load_tokenizer

CONFIG_FILE = "config.json"
DUAL_ENCODER_FILE = "dual_encoder.json"

_ENCODER_GINS = " or ".join(
  f"gin_configs/encoders/{name}.gin" for name in ("e5", "mbert", "xlmr")
)
# Such as xlm-roberta-base or intfloat/multilingual-e5-small.
_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
# Weights as safetensors first; the other formats only where there are none.
_HUB_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")
_HUB_OTHER_WEIGHTS = ("flax_model.msgpack", "pytorch_model*.bin")


@dataclasses.dataclass(frozen=True, eq=False)
class QueryGenerator:
  """A query generator ready for use: module, parameters, tokenizer."""

  config: Any
  module: Any
  params: Mapping[str, Any]
  tokenizer: Tokenizer
  fingerprint: str


# --------------------------------------------------------------------- load


def load_dual_encoder(
  checkpoint_path: str | os.PathLike,
  *,
  config: DualEncoderConfig | None = None,
  dtype: Any = jnp.float32,
) -> DualEncoder:
  """Loads a dual encoder from a folder or from the hub.

  Args:
    checkpoint_path: a Hugging Face folder or hub name, our MODEL_DIR, or one
      of its `checkpoint_<step>`.
    config: pooling, prefixes and lengths; None takes those that the folder
      states (`dual_encoder.json`, or sentence-transformers' `modules.json`).
    dtype: of matrix products; parameters are fp32.

  Raises:
    InputError: whatever is missing, damaged or does not fit together.
  """
  folder, step = _find_folder(checkpoint_path)
  values = read_json(folder / CONFIG_FILE)
  model_config = bert.BertConfig.from_hf(values, where=folder / CONFIG_FILE)
  config = config or _read_dual_encoder_config(folder)
  tokenizer = load_tokenizer(folder)
  if step is None:
    params = _place(bert.params_from_hf(read_hf_tensors(folder), model_config))
  else:
    params = load_params(step)
    _check_shapes(params, init_params, model_config, where=step)
  return make_dual_encoder(
    model_config=model_config,
    params=params,
    config=config,
    tokenizer=tokenizer,
    dtype=dtype,
  )


def load_query_generator(
  checkpoint_path: str | os.PathLike, *, dtype: str = "float32"
) -> QueryGenerator:
  """Loads an mT5 or T5 1.1 query generator from a folder or from the hub.

  Args:
    checkpoint_path: as for `load_dual_encoder`.
    dtype: of matrix products, "float32" or "bfloat16"; parameters are fp32.

  Raises:
    InputError: whatever is missing, damaged or does not fit together.
  """
  from xqg_jax.models import t5

  folder, step = _find_folder(checkpoint_path)
  values = read_json(folder / CONFIG_FILE)
  config = t5.T5Config.from_hf(values, where=folder / CONFIG_FILE)
  config = dataclasses.replace(config, dtype=dtype)
  tokenizer = load_tokenizer(folder)
  _check_vocabulary(tokenizer, config, folder)
  if step is None:
    params = _place(t5.params_from_hf(read_hf_tensors(folder), config))
  else:
    params = load_params(step)
    _check_shapes(params, _init_t5, config, where=step)
  constants = dataclasses.asdict(config)
  del constants["dtype"], constants["dropout_rate"]
  identity = {
    "params": params_fingerprint(params),
    "tokenizer": tokenizer.fingerprint,
    "model": constants,
  }
  return QueryGenerator(
    config=config,
    module=t5.T5(config=config),
    params=params,
    tokenizer=tokenizer,
    fingerprint=fingerprint(identity),
  )


def _init_t5(config: Any, rng: jax.Array) -> Mapping[str, Any]:
  from xqg_jax.models import t5

  dummy = jnp.zeros((1, 1), jnp.int32)
  return t5.T5(config=config).init(rng, dummy, dummy, dummy)["params"]


def _check_vocabulary(
  tokenizer: Tokenizer, config: Any, where: pathlib.Path
) -> None:
  if tokenizer.vocab_size > config.vocab_size:
    raise InputError(
      f"the tokenizer has {tokenizer.vocab_size} tokens, but the tensor "
      f"shared.weight has {config.vocab_size} rows",
      where=where,
      mend="take tokenizer and weights from one model",
    )


def _read_dual_encoder_config(folder: pathlib.Path) -> DualEncoderConfig:
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


def _place(params: Mapping[str, Any]) -> dict[str, Any]:
  """Copies mapped arrays to the default device as fp32, one at a time."""
  return jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32), params)


def _check_shapes(
  params: Mapping[str, Any],
  init: Callable[[Any, jax.Array], Mapping[str, Any]],
  config: Any,
  *,
  where: pathlib.Path,
) -> None:
  """Compares parameters with those that `init(config, rng)` would make."""
  expected = jax.eval_shape(lambda rng: init(config, rng), jax.random.key(0))
  found = traverse_util.flatten_dict(params, sep="/")
  wanted = traverse_util.flatten_dict(expected, sep="/")
  for name in sorted(found.keys() | wanted.keys()):
    if name not in found:
      what = f"no parameter {name}"
    elif name not in wanted:
      what = f"parameter {name} has no place in the model"
    elif found[name].shape != wanted[name].shape:
      what = (
        f"parameter {name} has shape {found[name].shape}, "
        f"expected {wanted[name].shape}"
      )
    else:
      continue
    raise InputError(
      what, where=where, mend=f"check {CONFIG_FILE} beside the checkpoint"
    )


# --------------------------------------------------------------------- find


def _find_folder(
  checkpoint_path: str | os.PathLike,
) -> tuple[pathlib.Path, pathlib.Path | None]:
  """The folder of a model, and its step's folder unless it is in HF form."""
  path = pathlib.Path(checkpoint_path)
  if not path.exists() and _HUB_NAME.fullmatch(str(checkpoint_path)):
    path = _download(str(checkpoint_path))
  if not path.is_dir():
    raise InputError(
      "no such folder",
      where=path,
      mend="give a checkpoint's folder, or a hub name such as "
      "intfloat/multilingual-e5-small",
    )
  step = find_checkpoint(path)
  folder = path.absolute().parent if step == path else path
  if not (folder / CONFIG_FILE).exists():
    raise InputError(
      f"no {CONFIG_FILE}", where=folder, mend="give the folder of a model"
    )
  if step is None and find_hf_weights(folder) is None:
    raise InputError(
      f"neither checkpoint_<step> nor {SAFETENSORS_FILE}",
      where=folder,
      mend="give a folder with trained or downloaded weights",
    )
  return folder, step


def _download(name: str) -> pathlib.Path:
  import huggingface_hub
  from huggingface_hub import errors

  try:
    folder = huggingface_hub.snapshot_download(
      name, allow_patterns=list(_HUB_FILES)
    )
    if find_hf_weights(folder) is None:
      folder = huggingface_hub.snapshot_download(
        name, allow_patterns=[*_HUB_FILES, *_HUB_OTHER_WEIGHTS]
      )
  except (OSError, ValueError, errors.HfHubHTTPError) as error:
    line = str(error).strip().splitlines()[0]
    raise InputError(
      f"no such folder, nor to be had from the hub ({line})",
      where=name,
      mend="check the path or the name, or download the model first",
    ) from None
  return pathlib.Path(folder)


# --------------------------------------------------------------------- save


def save_model_files(
  model_dir: str | os.PathLike,
  *,
  model_config_hf: Mapping[str, Any],
  tokenizer: Tokenizer,
  dual_encoder_config: DualEncoderConfig | None = None,
) -> None:
  """Writes what a model needs beside its parameters.

  Args:
    model_dir: the folder; `save_params` adds checkpoints to it.
    model_config_hf: `to_hf()` of the model's configuration.
    tokenizer: its tokenizer.
    dual_encoder_config: pooling and prefixes, for a dual encoder.
  """
  folder = pathlib.Path(model_dir)
  tokenizer.save(folder)
  if dual_encoder_config is not None:
    values = dataclasses.asdict(dual_encoder_config)
    write_json(folder / DUAL_ENCODER_FILE, values)
  write_json(folder / CONFIG_FILE, dict(model_config_hf))


def export_hugging_face(
  output_dir: str | os.PathLike, model: DualEncoder | QueryGenerator
) -> None:
  """Writes a model as a folder that transformers opens.

  A dual encoder also opens in sentence-transformers, with its pooling.
  """
  folder = pathlib.Path(output_dir)
  if isinstance(model, DualEncoder):
    model_config, pooling = model.module.config, model.config
    tensors = bert.params_to_hf(model.params, model_config)
    write_pooling(folder, pooling, dim=model.dim)
  else:
    from xqg_jax.models import t5

    model_config, pooling = model.config, None
    tensors = t5.params_to_hf(model.params, model_config)
  write_safetensors(folder / SAFETENSORS_FILE, tensors)
  save_model_files(
    folder,
    model_config_hf=model_config.to_hf(),
    tokenizer=model.tokenizer,
    dual_encoder_config=pooling,
  )
