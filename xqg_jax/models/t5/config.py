"""Shapes of T5 1.1 networks, read from and written to Hugging Face configs."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypedDict

from xqg_jax.errors import InputError
from xqg_jax.io.typed_json import Positive, Share, check_json

DTYPES = ("float32", "bfloat16")


class T5File(TypedDict, total=False):
  """What is read of the `config.json` of a T5; null stands for absent."""

  model_type: str | None
  feed_forward_proj: str | None
  vocab_size: Positive | None
  d_model: Positive | None
  num_heads: Positive | None
  d_kv: Positive | None
  d_ff: Positive | None
  num_layers: Positive | None
  num_decoder_layers: Positive | None
  relative_attention_num_buckets: Positive | None
  relative_attention_max_distance: Positive | None
  dropout_rate: Share | None
  layer_norm_epsilon: float | None
  tie_word_embeddings: bool | None
  scale_decoder_outputs: bool | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5Config:
  """Shape and constants of a T5 1.1 network, under T5X's names.

  Attributes:
    vocab_size: rows of the embedding table (the tokenizer may have fewer).
    emb_dim: width of the residual stream.
    num_heads: attention heads.
    head_dim: width of one head; `num_heads * head_dim` need not be `emb_dim`.
    mlp_dim: width between the two halves of the gated MLP.
    num_encoder_layers: encoder layers.
    num_decoder_layers: decoder layers.
    num_buckets: relative position buckets.
    max_distance: distance from which on all positions share a bucket.
    dropout_rate: used when `deterministic=False`.
    logits_via_embedding: whether the output layer is the embedding table,
      scaled by `emb_dim ** -0.5`.
    layer_norm_epsilon: added to the mean square.
    pad_id: padding.
    eos_id: ends a text.
    start_id: the first decoder input; None: `pad_id`.
    other_eos_ids: tokens that end what the decoder writes, beside `eos_id`.
    dtype: "float32" or "bfloat16", of the products.
  """

  vocab_size: int
  emb_dim: int
  num_heads: int
  head_dim: int
  mlp_dim: int
  num_encoder_layers: int
  num_decoder_layers: int
  num_buckets: int = 32
  max_distance: int = 128
  dropout_rate: float = 0.1
  logits_via_embedding: bool = False
  layer_norm_epsilon: float = 1e-6
  pad_id: int = 0
  eos_id: int = 1
  start_id: int | None = None
  other_eos_ids: tuple[int, ...] = ()
  dtype: str = "float32"

  def __post_init__(self):
    if self.dtype not in DTYPES:
      raise InputError(
        f"T5 cannot compute in {self.dtype!r} (activations of mT5 overflow "
        "float16)",
        mend="use bfloat16 or float32",
      )

  @property
  def first_input(self) -> int:
    """The first decoder input."""
    return self.pad_id if self.start_id is None else self.start_id

  @property
  def end_ids(self) -> tuple[int, ...]:
    """Tokens that end what the decoder writes."""
    return (self.eos_id, *self.other_eos_ids)

  @classmethod
  def from_hf(
    cls, config: Mapping[str, Any], where: object = None
  ) -> "T5Config":
    """Reads the content of a Hugging Face `config.json`.

    The stored `torch_dtype` says how the file is stored, not how to compute,
    and is not read.

    Raises:
      InputError: another kind of model, or a field missing.
    """
    check_json(config, T5File, where=where)
    config = {k: v for k, v in config.items() if v is not None}
    _check_kind(config, where)
    try:
      return cls(
        vocab_size=config["vocab_size"],
        emb_dim=config["d_model"],
        num_heads=config["num_heads"],
        head_dim=config["d_kv"],
        mlp_dim=config["d_ff"],
        num_encoder_layers=config["num_layers"],
        num_decoder_layers=(
          config.get("num_decoder_layers") or config["num_layers"]
        ),
        num_buckets=config.get("relative_attention_num_buckets", 32),
        max_distance=config.get("relative_attention_max_distance", 128),
        dropout_rate=config.get("dropout_rate", 0.1),
        logits_via_embedding=_is_tied(config),
        layer_norm_epsilon=config.get("layer_norm_epsilon", 1e-6),
        **_read_token_ids(config, where),
      )
    except KeyError as error:
      raise InputError(
        f"the field {error} is missing",
        where=where,
        mend="take config.json from the same place as the weights",
      ) from None

  def to_hf(self) -> dict[str, Any]:
    """The content of a Hugging Face `config.json` for this network."""
    tied, ends = self.logits_via_embedding, self.end_ids
    architecture = "T5" if tied else "MT5"
    return {
      "architectures": [f"{architecture}ForConditionalGeneration"],
      "model_type": architecture.lower(),
      "vocab_size": self.vocab_size,
      "d_model": self.emb_dim,
      "d_kv": self.head_dim,
      "d_ff": self.mlp_dim,
      "num_heads": self.num_heads,
      "num_layers": self.num_encoder_layers,
      "num_decoder_layers": self.num_decoder_layers,
      "relative_attention_num_buckets": self.num_buckets,
      "relative_attention_max_distance": self.max_distance,
      "dropout_rate": self.dropout_rate,
      "layer_norm_epsilon": self.layer_norm_epsilon,
      "feed_forward_proj": "gated-gelu",
      "is_encoder_decoder": True,
      "tie_word_embeddings": tied,
      "pad_token_id": self.pad_id,
      "eos_token_id": list(ends) if len(ends) > 1 else self.eos_id,
      "decoder_start_token_id": self.first_input,
    }


def _check_kind(config: Mapping[str, Any], where: object) -> None:
  if config.get("model_type") not in ("mt5", "t5"):
    raise InputError(
      f"the model type is {config.get('model_type')!r}, expected 'mt5' or 't5'",
      where=where,
      mend="give the folder of an mT5 or T5 1.1 checkpoint",
    )
  if config.get("feed_forward_proj") != "gated-gelu":
    raise InputError(
      f"feed_forward_proj is {config.get('feed_forward_proj')!r}, expected "
      "'gated-gelu'",
      where=where,
      mend="use mT5 or T5 version 1.1",
    )


def _read_token_ids(config: Mapping[str, Any], where: object) -> dict[str, Any]:
  """Padding, end and start tokens; a padding of null is left to the tokenizer.

  Raises:
    InputError: one that is no row of the table, or several starts.
  """
  ids: dict[str, tuple[Any, ...]] = {}
  for name, usual in (
    ("pad_token_id", 0),
    ("eos_token_id", 1),
    ("decoder_start_token_id", None),
  ):
    value = config.get(name)
    if value is None:
      value = usual
    values = value if isinstance(value, list) else [value]
    is_several = len(values) != 1 and name != "eos_token_id"
    rows = range(config["vocab_size"])
    if value is not None and (
      not values
      or is_several
      or any(type(v) is not int or v not in rows for v in values)
    ):
      raise InputError(
        f"{name} is {value!r}",
        where=where,
        mend="take config.json from the same place as the weights",
      )
    ids[name] = tuple(values)
  (pad_id,), (start_id,) = ids["pad_token_id"], ids["decoder_start_token_id"]
  eos_id, *others = ids["eos_token_id"]
  return {
    "pad_id": pad_id,
    "eos_id": eos_id,
    "start_id": None if start_id == pad_id else start_id,
    "other_eos_ids": tuple(others),
  }


def _is_tied(config: Mapping[str, Any]) -> bool:
  """Whether logits are scaled products with the embedding table.

  Only T5 1.0 and its tied descendants do that. `tie_word_embeddings` of mT5
  says nothing: transformers 5 writes `true` for every one, scales none, and
  unties those whose file holds an `lm_head.weight` of its own.
  """
  if config["model_type"] == "mt5":
    return False
  tied = config.get("tie_word_embeddings", True)
  return config.get("scale_decoder_outputs", tied)


def _mt5(layers: int, emb_dim: int, heads: int, mlp_dim: int) -> T5Config:
  return T5Config(
    vocab_size=250112,
    emb_dim=emb_dim,
    num_heads=heads,
    head_dim=64,
    mlp_dim=mlp_dim,
    num_encoder_layers=layers,
    num_decoder_layers=layers,
  )


# The released sizes of mT5 (Xue et al. 2021; the `config.json` of
# google/mt5-small to google/mt5-xxl).
MT5_SIZES = {
  "small": _mt5(8, 512, 6, 1024),
  "base": _mt5(12, 768, 12, 2048),
  "large": _mt5(24, 1024, 16, 2816),
  "xl": _mt5(24, 2048, 32, 5120),
  "xxl": _mt5(24, 4096, 64, 10240),
}
