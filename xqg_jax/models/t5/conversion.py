"""Conversion of T5 tensors between Hugging Face's layout and ours."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.traverse_util
import numpy as np

from xqg_jax.errors import InputError
from xqg_jax.models.parameters import Place
from xqg_jax.models.t5.config import T5Config

HEAD = "lm_head.weight"
TABLE = "shared.weight"
# Names of the one table; of copies, files keep any.
_TABLE_NAMES = (
  TABLE,
  "encoder.embed_tokens.weight",
  "decoder.embed_tokens.weight",
)
STACKS = ("encoder", "decoder")
# Copies of other tensors, or never used, that published files contain.
REDUNDANT = (
  *_TABLE_NAMES,
  "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
)
_MEND = "take config.json and the weights from one folder"


def _attention(hf: str, ours: str) -> Iterator[tuple[str, str, str]]:
  for letter, name in zip(
    "qkvo", ("query", "key", "value", "out"), strict=True
  ):
    axes = "inward" if letter != "o" else "outward"
    yield f"{hf}.{letter}.weight", f"{ours}/{name}/kernel", axes


def _sublayers(stack: str) -> list[tuple[str, str, str]]:
  """(Hugging Face's name, our name, our norm) of a layer's parts."""
  if stack == "encoder":
    return [
      ("SelfAttention", "attention", "pre_attention_layer_norm"),
      ("DenseReluDense", "mlp", "pre_mlp_layer_norm"),
    ]
  return [
    ("SelfAttention", "self_attention", "pre_self_attention_layer_norm"),
    (
      "EncDecAttention",
      "encoder_decoder_attention",
      "pre_cross_attention_layer_norm",
    ),
    ("DenseReluDense", "mlp", "pre_mlp_layer_norm"),
  ]


def _layer(stack: str, number: int) -> Iterator[tuple[str, str, str]]:
  ours = f"{stack}/layers_{number}"
  for index, (part, name, norm) in enumerate(_sublayers(stack)):
    hf = f"{stack}.block.{number}.layer.{index}"
    yield f"{hf}.layer_norm.weight", f"{ours}/{norm}/scale", "norm"
    if name == "mlp":
      for matrix, kind in (("wi_0", "up"), ("wi_1", "up"), ("wo", "down")):
        yield (
          f"{hf}.{part}.{matrix}.weight",
          f"{ours}/mlp/{matrix}/kernel",
          kind,
        )
    else:
      yield from _attention(f"{hf}.{part}", f"{ours}/{name}")


def _names(
  config: T5Config, stacks: Sequence[str]
) -> Iterator[tuple[str, str, str]]:
  """(Hugging Face's name, our path, kind) of every tensor."""
  yield TABLE, "token_embedder/embedding", "table"
  num_layers = {
    "encoder": config.num_encoder_layers,
    "decoder": config.num_decoder_layers,
  }
  for stack in stacks:
    first = f"{stack}.block.0.layer.0.SelfAttention"
    yield (
      f"{first}.relative_attention_bias.weight",
      f"{stack}/relpos_bias/rel_embedding",
      "biases",
    )
    for number in range(num_layers[stack]):
      yield from _layer(stack, number)
    norm = f"{stack}/{stack}_norm/scale"
    yield f"{stack}.final_layer_norm.weight", norm, "norm"
  if "decoder" in stacks and not config.logits_via_embedding:
    yield HEAD, "decoder/logits_dense/kernel", "logits"


def _hf_shapes(config: T5Config) -> dict[str, tuple[int, ...]]:
  """Shapes by kind in Hugging Face's layout: [out, in]."""
  emb_dim, joined = config.emb_dim, config.num_heads * config.head_dim
  return {
    "table": (config.vocab_size, emb_dim),
    "logits": (config.vocab_size, emb_dim),
    "biases": (config.num_buckets, config.num_heads),
    "norm": (emb_dim,),
    "inward": (joined, emb_dim),
    "outward": (emb_dim, joined),
    "up": (config.mlp_dim, emb_dim),
    "down": (emb_dim, config.mlp_dim),
  }


def params_from_hf(
  tensors: Mapping[str, np.ndarray],
  config: T5Config,
  *,
  stacks: Sequence[str] = STACKS,
  place: Place = lambda path, value: value,
) -> dict[str, Any]:
  """Parameters from the tensors of a Hugging Face T5 or mT5 checkpoint.

  Args:
    tensors: by Hugging Face's names; each is read once.
    config: the network's shape.
    stacks: the parts to take; tensors of the others are passed over.
    place: takes a parameter's path and values and returns what to keep, such
      as the array on its devices; called before the next tensor is read.

  Returns:
    The nested dict of parameters; by default views in the stored dtype.

  Raises:
    InputError: a tensor is missing, unexpected, or of another shape.
  """
  names, where = list(_names(config, stacks)), getattr(tensors, "where", None)
  others = tuple(f"{stack}." for stack in STACKS if stack not in stacks)
  taken = {name for name in tensors if not name.startswith(others)}
  table = _find_table(tensors, config, where)
  own = [hf for hf, _, _ in names if hf not in (HEAD, TABLE)]
  _check_names([table, *own], taken | {table} & set(tensors), where)
  shapes = _hf_shapes(config)
  params = {}
  for hf, ours, kind in names:
    # A model saved with its output layer tied has no tensor for it.
    is_table = hf == TABLE or (hf == HEAD and hf not in tensors)
    source = table if is_table else hf
    tensor = np.asarray(tensors[source])
    if tensor.shape != shapes[kind]:
      raise InputError(
        f"tensor {source} has shape {tensor.shape}, expected {shapes[kind]}",
        where=where,
        mend=_MEND,
      )
    params[ours] = place(ours, tensor if kind == "table" else tensor.T)
  return flax.traverse_util.unflatten_dict(params, sep="/")


def _find_table(
  tensors: Mapping[str, np.ndarray], config: T5Config, where: object
) -> str:
  """The name under which a file holds the table of embeddings.

  Raises:
    InputError: it holds several that differ.
  """
  names = [name for name in _TABLE_NAMES if name in tensors]
  # Where nothing else is there, the output layer's is the table; a network
  # that multiplies by the table can have no other.
  if HEAD in tensors and (config.logits_via_embedding or not names):
    names.append(HEAD)
  for name in names[1:]:
    if not np.array_equal(tensors[names[0]], tensors[name]):
      raise InputError(
        f"the tensors {names[0]} and {name} differ, but T5 has one table",
        where=where,
        mend="take the weights from the model's own folder",
      )
  return names[0] if names else TABLE


def _check_names(expected: list[str], found: set[str], where: object) -> None:
  missing = [name for name in expected if name not in found]
  if missing:
    raise InputError(
      f"no tensor {missing[0]} ({len(missing)} of {len(expected)} are missing)",
      where=where,
      mend=_MEND,
    )
  extra = found - {*expected, HEAD, *REDUNDANT}
  if extra:
    raise InputError(
      f"tensor {min(extra)} has no place in a T5 of the sizes in config.json "
      f"({len(extra)} such)",
      where=where,
      mend=_MEND,
    )


def params_to_hf(
  params: Mapping[str, Any],
  config: T5Config,
  *,
  stacks: Sequence[str] = STACKS,
) -> dict[str, np.ndarray]:
  """Tensors under Hugging Face's names and layout from our parameters."""
  flat = flax.traverse_util.flatten_dict(dict(params), sep="/")
  tensors = {}
  for hf, ours, kind in _names(config, stacks):
    tensor = np.asarray(flat[ours])
    tensors[hf] = np.ascontiguousarray(tensor if kind == "table" else tensor.T)
  return tensors
