"""Conversion of BERT tensors between Hugging Face's layout and ours."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from xqg_jax.errors import InputError
from xqg_jax.models.bert.config import BertConfig
from xqg_jax.models.parameters import Place

# Prefixes that heads-on-top models, and DPR, put before the encoder's own
# names.
_PREFIX = re.compile(
  r"^(bert|roberta|(question_encoder|ctx_encoder)\.bert_model)\."
)
# Heads in files without a prefix, and buffers of old files.
_IGNORED = re.compile(
  r"(pooler|cls|lm_head|classifier|qa_outputs)\.|"
  r"embeddings\.(position_ids|token_type_ids)$"
)
# What files of BERT's first years call a norm's weight and bias.
_OLD_NAMES = {".gamma": ".weight", ".beta": ".bias"}


class _Tensor(NamedTuple):
  """A parameter's path in our tree, and its name and shape in a file."""

  path: tuple[str, ...]
  name: str
  shape: tuple[int, ...]

  @property
  def is_transposed(self) -> bool:
    return self.path[-1] == "kernel"


def _dense(
  path: tuple[str, ...], name: str, inputs: int, outputs: int
) -> Iterator[_Tensor]:
  yield _Tensor((*path, "kernel"), f"{name}.weight", (outputs, inputs))
  yield _Tensor((*path, "bias"), f"{name}.bias", (outputs,))


def _norm(path: tuple[str, ...], name: str, size: int) -> Iterator[_Tensor]:
  yield _Tensor((*path, "scale"), f"{name}.weight", (size,))
  yield _Tensor((*path, "bias"), f"{name}.bias", (size,))


def _layer(config: BertConfig, index: int) -> Iterator[_Tensor]:
  embed, mlp = config.hidden_size, config.intermediate_size
  ours, hf = f"layers_{index}", f"encoder.layer.{index}"
  for part in ("query", "key", "value"):
    path, name = (ours, "attention", part), f"{hf}.attention.self.{part}"
    yield from _dense(path, name, embed, embed)
  out = f"{hf}.attention.output"
  yield from _dense((ours, "attention", "out"), f"{out}.dense", embed, embed)
  yield from _norm((ours, "attention_layer_norm"), f"{out}.LayerNorm", embed)
  yield from _dense((ours, "wi"), f"{hf}.intermediate.dense", embed, mlp)
  yield from _dense((ours, "wo"), f"{hf}.output.dense", mlp, embed)
  yield from _norm((ours, "mlp_layer_norm"), f"{hf}.output.LayerNorm", embed)


def _tensors(config: BertConfig) -> Iterator[_Tensor]:
  embed = config.hidden_size
  tables = {
    "word": config.vocab_size,
    "position": config.max_position_embeddings,
    "token_type": config.type_vocab_size,
  }
  for kind, rows in tables.items():
    if rows:
      name = f"embeddings.{kind}_embeddings.weight"
      yield _Tensor(("embeddings", kind), name, (rows, embed))
  norm = "embeddings.LayerNorm"
  yield from _norm(("embeddings", "layer_norm"), norm, embed)
  for index in range(config.num_hidden_layers):
    yield from _layer(config, index)


def params_from_hf(
  tensors: Mapping[str, np.ndarray],
  config: BertConfig,
  *,
  place: Place = lambda path, value: value,
) -> dict[str, Any]:
  """Renames (and transposes, as views) the tensors of a Hugging Face file.

  Args:
    tensors: by name, with or without the prefix `bert.`, `roberta.` or one of
      DPR's; read one at a time. Heads are passed over.
    config: the sizes that the tensors must have.
    place: takes a parameter's path and values and returns what to keep, such
      as the array on its devices; called before the next tensor is read.

  Returns:
    The nested dict of parameters that `BertEncoder` takes; by default views
    in the stored dtype.

  Raises:
    InputError: a tensor is missing, unknown, or of another shape.
  """
  where = getattr(tensors, "where", None)
  stored = _without_prefixes(tensors)
  expected = list(_tensors(config))
  _check_names(stored, expected, where)
  flat = {}
  for tensor in expected:
    value = tensors[stored[tensor.name]]
    if value.shape != tensor.shape:
      raise InputError(
        f"tensor {stored[tensor.name]} has shape {value.shape}, "
        f"expected {tensor.shape}",
        where=where,
        mend="take config.json and the weights from one folder",
      )
    value = value.T if tensor.is_transposed else value
    flat[tensor.path] = place("/".join(tensor.path), value)
  return traverse_util.unflatten_dict(flat)


def _without_prefixes(tensors: Mapping[str, Any]) -> dict[str, str]:
  """Names as stored, by the encoder's own names; heads are left out."""
  stored: dict[str, str] = {}
  has_prefix = any(map(_PREFIX.match, tensors))
  for name in tensors:
    own = _PREFIX.sub("", name)
    is_own = own != name or own.startswith(("embeddings.", "encoder."))
    if has_prefix and not is_own:  # a head, whatever it is called
      continue
    for old, new in _OLD_NAMES.items():
      if own.endswith(f"LayerNorm{old}"):
        own = own.removesuffix(old) + new
    if _IGNORED.match(own):
      continue
    if own in stored:
      raise InputError(
        f"the tensors {stored[own]} and {name} are the same one",
        where=getattr(tensors, "where", None),
        mend="take the weights from the model's own folder",
      )
    stored[own] = name
  return stored


def _check_names(
  stored: Mapping[str, str], expected: list[_Tensor], where: object
) -> None:
  names = [tensor.name for tensor in expected]
  missing = [name for name in names if name not in stored]
  if missing:
    raise InputError(
      f"no tensor {missing[0]} ({len(missing)} of {len(names)} are missing)",
      where=where,
      mend="take the weights from the folder that config.json came from",
    )
  extra = [stored[name] for name in stored.keys() - set(names)]
  if extra:
    raise InputError(
      f"tensor {min(extra)} has no place in a BERT of the sizes in "
      f"config.json ({len(extra)} such)",
      where=where,
      mend="take config.json and the weights from one folder",
    )


def params_to_hf(
  params: Mapping[str, Any], config: BertConfig
) -> dict[str, np.ndarray]:
  """The inverse of `params_from_hf`, with names that carry no prefix."""
  flat = traverse_util.flatten_dict(params)
  tensors = {}
  for tensor in _tensors(config):
    value = np.asarray(flat[tensor.path])
    value = value.T if tensor.is_transposed else value
    tensors[tensor.name] = np.ascontiguousarray(value)
  return tensors
