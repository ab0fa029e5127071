"""Sizes of BERT and XLM-R encoders, to and from Hugging Face's config.json."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypedDict

from xqg_jax.errors import InputError
from xqg_jax.io.typed_json import Count, Positive, Share, check_json

# XLM-R counts positions from `pad_token_id` + 1, an heirloom of fairseq.
_OFFSET_TYPES = ("xlm-roberta", "roberta")
# DPR's encoders are BERT under another name.
DPR_TYPE = "dpr"
# Hugging Face's model types, and the class of each.
ARCHITECTURES = {
  "bert": "BertModel",
  "xlm-roberta": "XLMRobertaModel",
  "roberta": "RobertaModel",
}


class BertFile(TypedDict, total=False):
  """What is read of the `config.json` of a BERT; null stands for absent."""

  vocab_size: Positive | None
  hidden_size: Positive | None
  num_hidden_layers: Positive | None
  num_attention_heads: Positive | None
  intermediate_size: Positive | None
  max_position_embeddings: Positive | None
  type_vocab_size: Positive | None
  layer_norm_eps: float | None
  hidden_dropout_prob: Share | None
  attention_probs_dropout_prob: Share | None
  initializer_range: float | None
  pad_token_id: Count | None
  model_type: str | None
  hidden_act: str | None
  position_embedding_type: str | None
  is_decoder: bool | None
  add_cross_attention: bool | None
  projection_dim: Count | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class BertConfig:
  """Sizes of an encoder, under the names of Hugging Face's `config.json`."""

  vocab_size: int
  hidden_size: int
  num_hidden_layers: int
  num_attention_heads: int
  intermediate_size: int
  max_position_embeddings: int = 512
  type_vocab_size: int = 2
  layer_norm_eps: float = 1e-12
  hidden_dropout_prob: float = 0.1
  attention_probs_dropout_prob: float = 0.1
  initializer_range: float = 0.02
  pad_token_id: int = 0
  model_type: str = "bert"

  @property
  def position_offset(self) -> int:
    """The position embedding that the first token takes."""
    return self.pad_token_id + 1 if self.model_type in _OFFSET_TYPES else 0

  @property
  def max_length(self) -> int:
    """The longest text in tokens that has position embeddings."""
    return self.max_position_embeddings - self.position_offset

  @classmethod
  def from_hf(cls, values: Mapping[str, Any], where: object) -> "BertConfig":
    """Reads the contents of a Hugging Face `config.json`.

    Args:
      values: the JSON object.
      where: the file, for messages.

    Raises:
      InputError: another architecture, or one with features that this encoder
        lacks.
    """
    if values.get("model_type") == DPR_TYPE:
      values = {**values, "model_type": "bert"}
    check_json(values, BertFile, where=where)
    _check_architecture(values, where)
    names = [field.name for field in dataclasses.fields(cls)]
    known = {k: values[k] for k in names if values.get(k) is not None}
    try:
      config = cls(**known)
    except TypeError:
      required = [k for k in names[:5] if k not in known]
      raise InputError(
        f"no {', '.join(required)} in the model's configuration",
        where=where,
        mend="take config.json from the model's own folder",
      ) from None
    if config.hidden_size % config.num_attention_heads:
      raise InputError(
        f"hidden_size {config.hidden_size} is not a multiple of "
        f"num_attention_heads {config.num_attention_heads}",
        where=where,
      )
    return config

  def to_hf(self) -> dict[str, Any]:
    """The contents of `config.json` that transformers opens."""
    return {
      "architectures": [ARCHITECTURES[self.model_type]],
      **dataclasses.asdict(self),
      "hidden_act": "gelu",
      "position_embedding_type": "absolute",
    }


def _check_architecture(values: Mapping[str, Any], where: object) -> None:
  allowed = {
    "model_type": tuple(ARCHITECTURES),
    "hidden_act": ("gelu", None),
    "position_embedding_type": ("absolute", None),
    "is_decoder": (False, None),
    "add_cross_attention": (False, None),
    "projection_dim": (0, None),  # of DPR
  }
  for key, accepted in allowed.items():
    if values.get(key) not in accepted:
      choices = ", ".join(str(value) for value in accepted if value is not None)
      raise InputError(
        f"{key} is {values.get(key)!r}",
        where=where,
        mend=f"a dual encoder needs {key}: {choices}",
      )
