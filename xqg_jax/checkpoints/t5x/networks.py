"""Query generators from T5X checkpoints: shapes, parameters, tokenizer."""

import os
import pathlib
import re
import tempfile
from collections.abc import Mapping
from typing import Any

from flax import traverse_util

from xqg_jax.checkpoints.placement import place_on
from xqg_jax.checkpoints.steps import STEP_FOLDER
from xqg_jax.checkpoints.t5x.layouts import (
  T5xCheckpoint,
  T5xTensor,
  is_t5x_step,
  open_t5x_step,
)
from xqg_jax.errors import InputError
from xqg_jax.io.locations import Location
from xqg_jax.io.urls import is_url
from xqg_jax.models.parameters import flatten_params, param_shapes
from xqg_jax.models.t5 import network
from xqg_jax.text.sentencepiece import read_sentencepiece
from xqg_jax.text.tokenizer import SETTINGS_FILE, TOKENIZER_FILE, Tokenizer
from xqg_jax.text.tokenizer import load_tokenizer as load_tokenizer_folder

SENTENCEPIECE_FILES = ("sentencepiece.model", "spiece.model")
_KNOWN_FILES = (TOKENIZER_FILE, *SENTENCEPIECE_FILES)
_TOKENIZER_FILES = (TOKENIZER_FILE, SETTINGS_FILE, "special_tokens_map.json")


def find_t5x_step(path: str | os.PathLike) -> Location | None:
  """The folder `checkpoint_<step>` of T5X that a path means, or None.

  Args:
    path: such a folder, or a MODEL_DIR of T5X: then its newest step; on disk
      or a URL such as `gs://bucket/mt5_base/checkpoint_1000000`.
  """
  folder = Location.of(path)
  if is_t5x_step(folder):
    return folder
  steps = [
    (int(match[1]), name)
    for name in folder.list_names()
    if (match := STEP_FOLDER.fullmatch(name)) and is_t5x_step(folder / name)
  ]
  return folder / max(steps)[1] if steps else None


def open_t5x(path: str | os.PathLike) -> T5xCheckpoint | None:
  """Opens the T5X checkpoint that a path means; None where it is no such."""
  step = find_t5x_step(path)
  return None if step is None else open_t5x_step(step)


def read_t5x_step(checkpoint: T5xCheckpoint) -> int:
  """The number of training steps that a checkpoint has behind it.

  Raises:
    InputError: it does not say.
  """
  path = "state/step"
  if path not in checkpoint.arrays:
    raise InputError(
      f"no tensor {path}", where=checkpoint.where, mend="copy it again"
    )
  return int(checkpoint.open(path)[""].read())


# -------------------------------------------------------------------- network


def infer_config(
  shapes: Mapping[str, tuple[int, ...]], *, where: object = None
) -> network.T5Config:
  """The network to which parameters of these shapes belong.

  Shapes do not tell the distance of the last relative position bucket, the
  epsilon of norms and the dropout rate; those are mT5's.

  Args:
    shapes: by path, such as `encoder/encoder_norm/scale`.
    where: the checkpoint, for messages.

  Raises:
    InputError: a tensor that is needed for it is missing, or not of T5 1.1.
  """

  def shape(name: str) -> tuple[int, int]:
    if name not in shapes or len(shapes[name]) != 2:
      raise _unfit(name, shapes.get(name), "two axes", where)
    rows, columns = shapes[name]
    return rows, columns

  if any(re.search(r"/layers_\d+/mlp/wi/kernel$", name) for name in shapes):
    raise InputError(
      "the network is T5 1.0, which has tensors mlp/wi",
      where=where,
      mend="give a checkpoint of mT5 or T5 1.1",
    )
  vocab_size, emb_dim = shape("token_embedder/embedding")
  num_heads, num_buckets = shape("encoder/relpos_bias/rel_embedding")
  _, joined = shape("encoder/layers_0/attention/query/kernel")
  _, mlp_dim = shape("encoder/layers_0/mlp/wi_0/kernel")
  return network.T5Config(
    vocab_size=vocab_size,
    emb_dim=emb_dim,
    num_heads=num_heads,
    head_dim=joined // num_heads,
    mlp_dim=mlp_dim,
    num_encoder_layers=_count_layers(shapes, "encoder"),
    num_decoder_layers=_count_layers(shapes, "decoder"),
    num_buckets=num_buckets,
    logits_via_embedding="decoder/logits_dense/kernel" not in shapes,
  )


def _count_layers(shapes: Mapping[str, Any], stack: str) -> int:
  pattern = re.compile(rf"{stack}/layers_(\d+)/.*")
  numbers = [int(m[1]) for name in shapes if (m := pattern.fullmatch(name))]
  return max(numbers, default=0) + 1


def _unfit(
  name: str, found: tuple[int, ...] | None, wanted: object, where: object
) -> InputError:
  if found is None:
    what = f"no tensor {name}"
  elif wanted is None:
    what = f"tensor {name} has no place in an mT5 or T5 1.1"
  else:
    what = f"tensor {name} has shape {found}, expected {wanted}"
  return InputError(
    what, where=where, mend="give a whole checkpoint of mT5 or T5 1.1"
  )


def open_t5x_network(
  checkpoint: T5xCheckpoint,
) -> tuple[network.T5Config, dict[str, T5xTensor]]:
  """The network of a checkpoint, and its parameters, which are yet to be read.

  Raises:
    InputError: a tensor is missing, unknown, damaged or of another shape.
  """
  tensors = checkpoint.open("target/")
  found = {name: tensor.shape for name, tensor in tensors.items()}
  config = infer_config(found, where=checkpoint.where)
  shapes = flatten_params(param_shapes(network.T5(config=config)))
  wanted = {name: leaf.shape for name, leaf in shapes.items()}
  for name in sorted(found.keys() | wanted.keys()):
    if found.get(name) != wanted.get(name):
      raise _unfit(name, found.get(name), wanted.get(name), checkpoint.where)
  return config, tensors


def place_tensors(
  tensors: Mapping[str, T5xTensor], shardings: Mapping[str, Any] | None
) -> dict[str, Any]:
  """Reads tensors, one after the other, to their devices as a nested dict."""
  place = place_on(shardings)
  params = {name: place(name, tensor) for name, tensor in tensors.items()}
  return traverse_util.unflatten_dict(params, sep="/")


# ------------------------------------------------------------------ tokenizer


def load_t5x_tokenizer(
  step: Location, tokenizer_path: str | os.PathLike | None = None
) -> Tokenizer:
  """Loads the tokenizer of a checkpoint, which T5X does not keep itself.

  Args:
    step: the folder `checkpoint_<step>`; it and the folder around it are
      looked through.
    tokenizer_path: a SentencePiece model, a `tokenizer.json` or a folder with
      one of them, on disk or a URL, instead.

  Raises:
    InputError: no tokenizer, or a damaged one.
  """
  if tokenizer_path is not None:
    return load_tokenizer_at(tokenizer_path)
  for folder in (step, step.parent):
    found = _load_tokenizer(folder)
    if found is not None:
      return found
  raise InputError(
    "no tokenizer beside the T5X checkpoint",
    where=step,
    mend=f"put the model's {' or '.join(_KNOWN_FILES)} into {step.parent}, or "
    "set TOKENIZER_PATH",
  )


def load_tokenizer_at(path: str | os.PathLike) -> Tokenizer:
  """Loads a tokenizer by its file or folder, on disk or in a bucket.

  Raises:
    InputError: no tokenizer, or a damaged one.
  """
  location = Location.of(path)
  found = _load_tokenizer(location)
  if found is None and pathlib.Path(location.path).is_dir():
    return load_tokenizer_folder(location.path)
  if found is None:
    raise InputError(
      f"no tokenizer ({' or '.join(_KNOWN_FILES)})",
      where=path,
      mend="check TOKENIZER_PATH",
    )
  return found


def _load_tokenizer(path: Location) -> Tokenizer | None:
  """The tokenizer that is at a path, a file or a folder, or None."""
  if path.name.endswith(".model"):
    content = path.read_bytes()
    if content is None:
      return None
    return read_sentencepiece(content, where=path)
  if path.name == TOKENIZER_FILE:
    path = path.parent
  if (path / TOKENIZER_FILE).read_bytes() is not None:
    return _load_json_tokenizer(path)
  for name in SENTENCEPIECE_FILES:
    content = (path / name).read_bytes()
    if content is not None:
      return read_sentencepiece(content, where=path / name)
  return None


def _load_json_tokenizer(folder: Location) -> Tokenizer:
  if not is_url(str(folder)):
    return load_tokenizer_folder(str(folder))
  with tempfile.TemporaryDirectory() as copy:
    for name in _TOKENIZER_FILES:
      content = (folder / name).read_bytes()
      if content is not None:
        pathlib.Path(copy, name).write_bytes(content)
    return load_tokenizer_folder(copy)
