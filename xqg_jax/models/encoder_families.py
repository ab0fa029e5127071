"""Encoder families of dual encoders: BERT, XLM-R, T5's encoder.

Each is called with tokens, segment ids and positions of packed rows and gives
the last hidden state. What differs between them is gathered here.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from xqg_jax.errors import InputError
from xqg_jax.models.bert import encoder
from xqg_jax.models.bert.encoder import BertConfig, BertEncoder
from xqg_jax.models.parameters import Params, Place
from xqg_jax.models.t5 import network
from xqg_jax.models.t5.network import T5Config, T5Encoder

EncoderConfig = BertConfig | T5Config

_BERT_TYPES = ("bert", "xlm-roberta", "roberta")
_T5_TYPES = ("mt5", "t5")
_T5_STACKS = ("encoder",)
# What changes vectors although parameters have equal paths and shapes.
_BERT_CONSTANTS = (
  "model_type",
  "num_attention_heads",
  "layer_norm_eps",
  "pad_token_id",
)
_T5_CONSTANTS = ("num_heads", "max_distance", "layer_norm_epsilon")
_DROPOUT_FIELDS = (
  "hidden_dropout_prob",
  "attention_probs_dropout_prob",
  "dropout_rate",
)
# What belongs to a run and not to the parameters.
RUN_FIELDS = (*_DROPOUT_FIELDS, "dtype")


def read_encoder_config(
  values: Mapping[str, Any], where: object
) -> EncoderConfig:
  """Reads a Hugging Face `config.json` of any of these transformers.

  Args:
    values: the JSON object; of an encoder-decoder the encoder will be used.
    where: the file, for messages.

  Raises:
    InputError: another kind of model, or one with features that we lack.
  """
  kind = values.get("model_type")
  if kind in _T5_TYPES:
    return T5Config.from_hf(values, where=where)
  if kind in _BERT_TYPES:
    return BertConfig.from_hf(values, where=where)
  raise InputError(
    f"model_type is {kind!r}",
    where=where,
    mend="a dual encoder needs model_type: "
    f"{', '.join((*_BERT_TYPES, *_T5_TYPES))}",
  )


def encoder_config_to_hf(config: EncoderConfig) -> dict[str, Any]:
  """The contents of `config.json` for the encoder alone."""
  values = config.to_hf()
  if isinstance(config, BertConfig):
    return values
  (architecture,) = values["architectures"]
  kind = architecture.removesuffix("ForConditionalGeneration")
  return values | {
    "architectures": [f"{kind}EncoderModel"],
    "is_encoder_decoder": False,
    # Of the one table under its two names, not of an output layer.
    "tie_word_embeddings": True,
  }


def make_encoder(
  config: EncoderConfig, dtype: Any = jnp.float32
) -> BertEncoder | T5Encoder:
  """Makes the module.

  Args:
    config: the sizes.
    dtype: of matrix products; parameters are fp32.

  Raises:
    InputError: float16 for T5, whose activations exceed its range.
  """
  if isinstance(config, BertConfig):
    return BertEncoder(config, jnp.dtype(dtype))
  name = jnp.dtype(dtype).name
  return T5Encoder(dataclasses.replace(config, dtype=name))


def encoder_params_from_hf(
  tensors: Mapping[str, np.ndarray],
  config: EncoderConfig,
  *,
  place: Place = lambda path, value: value,
) -> Params:
  """Parameters from the tensors of a Hugging Face file, read one at a time.

  Args:
    tensors: by name; heads and T5's decoder are passed over.
    config: the sizes that the tensors must have.
    place: as for `bert.params_from_hf`.

  Raises:
    InputError: a tensor is missing, unknown, or of another shape.
  """
  if isinstance(config, BertConfig):
    return encoder.params_from_hf(tensors, config, place=place)
  return network.params_from_hf(tensors, config, stacks=_T5_STACKS, place=place)


def encoder_params_to_hf(
  params: Params, config: EncoderConfig
) -> dict[str, np.ndarray]:
  """The inverse of `encoder_params_from_hf`."""
  if isinstance(config, BertConfig):
    return encoder.params_to_hf(params, config)
  return network.params_to_hf(params, config, stacks=_T5_STACKS)


def get_width(config: EncoderConfig) -> int:
  """The length of a hidden state."""
  if isinstance(config, BertConfig):
    return config.hidden_size
  return config.emb_dim


def get_max_length(config: EncoderConfig) -> int | None:
  """The longest text in tokens; None: no limit, as with T5's distances."""
  return config.max_length if isinstance(config, BertConfig) else None


def get_vocabulary_name(config: EncoderConfig) -> str:
  """The tensor with a row for each token."""
  if isinstance(config, BertConfig):
    return "embeddings.word_embeddings"
  return "shared.weight"


def get_constants(config: EncoderConfig) -> dict[str, Any]:
  """What changes vectors beside the parameters, for fingerprints."""
  if isinstance(config, BertConfig):
    return {name: getattr(config, name) for name in _BERT_CONSTANTS}
  constants = {name: getattr(config, name) for name in _T5_CONSTANTS}
  return {"model_type": "t5", **constants}


def with_dropout(config: EncoderConfig, rate: float) -> EncoderConfig:
  """The same sizes with another dropout rate, in all places alike."""
  names = {field.name for field in dataclasses.fields(config)}
  rates = dict.fromkeys(names & set(_DROPOUT_FIELDS), rate)
  return dataclasses.replace(config, **rates)
