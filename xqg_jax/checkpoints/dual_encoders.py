"""Dual-encoder checkpoints: parameters, tokenizer, configuration."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

import jax
import jax.numpy as jnp

from xqg_jax.checkpoints.folders import (
  CONFIG_FILE,
  DUAL_ENCODER_FILE,
  find_folder,
  find_side_folders,
  save_model_files,
)
from xqg_jax.checkpoints.hugging_face.sentence_transformers import (
  find_transformer,
  read_pooling,
  read_projection,
  read_projection_config,
  write_modules,
)
from xqg_jax.checkpoints.hugging_face.tensors import (
  SAFETENSORS_FILE,
  read_hf_tensors,
  write_safetensors,
)
from xqg_jax.checkpoints.placement import place_on
from xqg_jax.checkpoints.query_generators import load_query_generator
from xqg_jax.checkpoints.steps import load_params
from xqg_jax.errors import InputError
from xqg_jax.io.files import read_json
from xqg_jax.io.paths import Path, to_path
from xqg_jax.io.typed_json import Positive, refuse_unknown
from xqg_jax.models.dual_encoder.config import (
  SIDES,
  DualEncoderConfig,
  ProjectionConfig,
  Side,
  side_name,
)
from xqg_jax.models.dual_encoder.dual_encoder import (
  DualEncoder,
  make_dual_encoder,
)
from xqg_jax.models.dual_encoder.network import make_network
from xqg_jax.models.encoder_families import (
  EncoderConfig,
  encoder_config_to_hf,
  encoder_params_from_hf,
  encoder_params_to_hf,
  get_max_length,
  get_width,
  make_encoder,
  read_encoder_config,
)
from xqg_jax.models.parameters import Params, Place, param_axes, param_shapes
from xqg_jax.runtime.sharding import params_shardings
from xqg_jax.text.tokenizer import Tokenizer, load_tokenizer

_ENCODER_GINS = " or ".join(
  f"gin_configs/encoders/{name}.gin" for name in ("e5", "mbert", "xlmr", "mt5")
)


def load_dual_encoder(
  checkpoint_path: str | os.PathLike,
  *,
  config: DualEncoderConfig | None = None,
  dtype: Any = jnp.float32,
  mesh: jax.sharding.Mesh | None = None,
) -> DualEncoder:
  """Loads a dual encoder from a folder or from the hub.

  The transformer is BERT, XLM-R or the encoder of mT5 or T5 1.1, whose
  decoder is passed over. A query generator will do, if `config` is given.

  Args:
    checkpoint_path: a Hugging Face folder or hub name, a folder with two such
      (`query_encoder` and `passage_encoder`), our MODEL_DIR, or one of its
      `checkpoint_<step>`.
    config: pooling, prefixes and lengths; None takes those that the folder
      states (`dual_encoder.json`, or sentence-transformers' `modules.json`).
      Whether there is a projection, and whether the sides are separate, the
      folder says in any case; a config that asks for more is refused.
    dtype: of matrix products; parameters are fp32.
    mesh: splits the parameters over its axis `model`, each tensor straight
      from the file; None: whole on the first local device.

  Raises:
    InputError: whatever is missing, damaged or does not fit together.
  """
  folder, step = find_folder(checkpoint_path)
  sides = {} if step else find_side_folders(folder)
  model_config, tokenizer = _read_common(list(sides.values()) or [folder])
  config = _read_config(folder, sides, config, get_max_length(model_config))
  network = make_network(make_encoder(model_config, dtype), config)
  shapes = param_shapes(network)
  shardings = mesh and params_shardings(mesh, param_axes(network), shapes)
  if step is not None and not (folder / DUAL_ENCODER_FILE).exists():
    params = _take_encoder(checkpoint_path, mesh)
  elif step is not None:
    params = load_params(step, shapes=shapes, sharding=shardings)
  elif sides:
    params = {
      side_name(side): _read_side(
        path, model_config, config, _below(side_name(side), place_on(shardings))
      )
      for side, path in sides.items()
    }
  else:
    params = _read_side(folder, model_config, config, place_on(shardings))
  return make_dual_encoder(
    model_config=model_config,
    params=params,
    config=config,
    tokenizer=tokenizer,
    dtype=dtype,
  )


def _read_common(
  folders: list[Path],
) -> tuple[EncoderConfig, Tokenizer]:
  """The transformer's sizes and the tokenizer, which all sides share."""
  found = []
  for folder in folders:
    transformer = find_transformer(folder)
    path = transformer / CONFIG_FILE
    sizes = read_encoder_config(read_json(path, dict[str, Any]), where=path)
    found.append((sizes, load_tokenizer(transformer)))
    same_sizes = sizes == found[0][0]
    if not same_sizes or found[-1][1].fingerprint != found[0][1].fingerprint:
      raise InputError(
        f"its {'tokenizer' if same_sizes else CONFIG_FILE} differs from that "
        f"of {folders[0].name}",
        where=folder,
        mend="take two encoders of one kind and tokenizer",
      )
  return found[0]


def _take_encoder(
  checkpoint_path: str | os.PathLike, mesh: jax.sharding.Mesh | None
) -> Params:
  """The encoder of a query generator that was trained here."""
  params = load_query_generator(checkpoint_path, mesh=mesh).params
  return {"encoder": {k: params[k] for k in ("token_embedder", "encoder")}}


def _read_side(
  folder: Path,
  model_config: EncoderConfig,
  config: DualEncoderConfig,
  place: Place,
) -> Params:
  """The parameters of one side, from a Hugging Face folder."""
  params = {
    "encoder": encoder_params_from_hf(
      read_hf_tensors(find_transformer(folder)),
      model_config,
      place=_below("encoder", place),
    )
  }
  if config.projection is not None:
    params["projection"] = read_projection(
      folder,
      config.projection,
      width=get_width(model_config),
      place=_below("projection", place),
    )
  return params


def _below(name: str, place: Place) -> Place:
  """Places the parameters of a part, whose paths begin at the part."""
  return lambda path, value: place(f"{name}/{path}", value)


# --------------------------------------------------------------- configuration


def _read_config(
  folder: Path,
  sides: Mapping[Side, Path],
  given: DualEncoderConfig | None,
  max_length: int | None,
) -> DualEncoderConfig:
  """The config given or stated, of the structure that the weights have."""
  folders = list(sides.values()) or [folder]
  if given is None:
    stated = [_read_stated(path, max_length) for path in folders]
    return _join(stated[0], stated[1], folder) if sides else stated[0]
  structures = [_read_structure(path) for path in folders]
  projections = [projection for projection, _ in structures]
  if projections[-1] != projections[0]:
    raise InputError(
      "the projections of the two sides differ in size or activation",
      where=folder,
      mend="take two encoders of one kind",
    )
  projection, share_encoders = projections[0], structures[0][1] and not sides
  is_other = given.projection not in (None, projection)
  is_split = share_encoders and not given.share_encoders
  for name, found, is_refused in (
    ("projection", projection, is_other),
    ("share_encoders", share_encoders, is_split),
  ):
    if is_refused:
      raise InputError(
        f"{name} is {getattr(given, name)}, but {found} in this folder",
        where=folder,
        mend=f"leave {name} out of ENCODER, or train such an encoder first",
      )
  return dataclasses.replace(
    given, projection=projection, share_encoders=share_encoders
  )


def _read_structure(
  folder: Path,
) -> tuple[ProjectionConfig | None, bool]:
  """The projection of a folder's weights, and whether its sides share them."""
  path = folder / DUAL_ENCODER_FILE
  if path.exists():
    config = _read_own(path)
    return config.projection, config.share_encoders
  return read_projection_config(folder), True


def _read_stated(folder: Path, max_length: int | None) -> DualEncoderConfig:
  path = folder / DUAL_ENCODER_FILE
  if path.exists():
    return _read_own(path)
  config = read_pooling(folder, max_length=max_length)
  if config is None:
    raise InputError(
      "the folder does not say how its encoder pools",
      where=folder,
      mend=f"add --gin_file={_ENCODER_GINS}, whichever the model is",
    )
  return config


class ProjectionRecord(TypedDict):
  """A `ProjectionConfig` as files note it."""

  size: Positive
  use_bias: NotRequired[bool]
  activation: NotRequired[str]


class DualEncoderFile(TypedDict):
  """Contents of `dual_encoder.json`: a `DualEncoderConfig`."""

  pooling: str
  normalize: bool
  query_prefix: NotRequired[str]
  passage_prefix: NotRequired[str]
  query_length: NotRequired[Positive]
  passage_length: NotRequired[Positive]
  projection: NotRequired[ProjectionRecord | None]
  share_encoders: NotRequired[bool]


def _read_own(path: Path) -> DualEncoderConfig:
  values = read_json(path, DualEncoderFile)
  refuse_unknown(values, DualEncoderFile, where=path)
  projection = values.get("projection")
  if projection is not None:
    refuse_unknown(projection, ProjectionRecord, where=path)
    projection = ProjectionConfig(**projection)
  return DualEncoderConfig(**{**values, "projection": projection})


def _join(
  query: DualEncoderConfig, passage: DualEncoderConfig, where: Path
) -> DualEncoderConfig:
  """Takes prefix and length of each side from its own folder."""
  own = ("passage_prefix", "passage_length")
  joined = dataclasses.replace(
    query,
    share_encoders=False,
    **{name: getattr(passage, name) for name in own},
  )
  for name in ("pooling", "normalize", "projection"):
    if getattr(query, name) != getattr(passage, name):
      raise InputError(
        f"{name} is {getattr(query, name)} in {side_name('query')} and "
        f"{getattr(passage, name)} in {side_name('passage')}",
        where=where,
        mend="take two encoders of one kind",
      )
  return joined


# ---------------------------------------------------------------------- export


def export_dual_encoder(
  output_dir: str | os.PathLike, encoder: DualEncoder
) -> None:
  """Writes a dual encoder as a folder that transformers opens.

  It also opens in sentence-transformers, with its pooling, projection and
  prompts. Separate sides become two such folders, `query_encoder` and
  `passage_encoder`.
  """
  folder, config = to_path(output_dir), encoder.config
  if config.share_encoders:
    _export_side(folder, encoder, encoder.params, config)
    return
  config = dataclasses.replace(config, share_encoders=True)
  for side in SIDES:
    name = side_name(side)
    _export_side(folder / name, encoder, encoder.params[name], config)


def _export_side(
  folder: Path,
  encoder: DualEncoder,
  params: Params,
  config: DualEncoderConfig,
) -> None:
  model_config = encoder.module.config
  write_modules(
    folder,
    config,
    width=get_width(model_config),
    projection=params.get("projection"),
  )
  write_safetensors(
    folder / SAFETENSORS_FILE,
    encoder_params_to_hf(params["encoder"], model_config),
  )
  save_model_files(
    folder,
    model_config_hf=encoder_config_to_hf(model_config),
    tokenizer=encoder.tokenizer,
    dual_encoder_config=config,
  )
