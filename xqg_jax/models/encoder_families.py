"""Encoder families of dual encoders: BERT, XLM-R, T5's encoder.

A new one is a subclass of `Family` in a file of its own and one entry of
`_FAMILIES`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from xqg_jax.errors import InputError
from xqg_jax.io.typed_json import check_json
from xqg_jax.models.bert.family import BertFamily
from xqg_jax.models.family import EncoderConfig, Family
from xqg_jax.models.parameters import Params, Place
from xqg_jax.models.t5.family import T5Family


class HfConfig(TypedDict):
  """What every `config.json` of Hugging Face has."""

  model_type: NotRequired[str | None]


_FAMILIES: tuple[Family, ...] = (BertFamily(), T5Family())
# By the model type that Hugging Face's `config.json` names.
FAMILIES = {name: family for family in _FAMILIES for name in family.model_types}
_BY_CONFIG = {family.config_type: family for family in _FAMILIES}
# What belongs to a run and not to the parameters.
RUN_FIELDS = (
  *(name for family in _FAMILIES for name in family.dropout_fields),
  "dtype",
)


def find_family(config: EncoderConfig) -> Family:
  """The family of a network's sizes."""
  return _BY_CONFIG[type(config)]


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
  kind = check_json(values, HfConfig, where=where).get("model_type")
  if kind not in FAMILIES:
    raise InputError(
      f"model_type is {kind!r}",
      where=where,
      mend=f"a dual encoder needs model_type: {', '.join(FAMILIES)}",
    )
  return FAMILIES[kind].read_config(values, where)


def encoder_config_to_hf(config: EncoderConfig) -> dict[str, Any]:
  """The contents of `config.json` for the encoder alone."""
  return find_family(config).config_to_hf(config)


def make_encoder(config: EncoderConfig, dtype: Any = jnp.float32) -> nn.Module:
  """Makes the module.

  Args:
    config: the sizes.
    dtype: of matrix products; parameters are fp32.

  Raises:
    InputError: a dtype that the activations exceed (float16 for T5).
  """
  return find_family(config).make(config, jnp.dtype(dtype))


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
  return find_family(config).params_from_hf(tensors, config, place=place)


def encoder_params_to_hf(
  params: Params, config: EncoderConfig
) -> dict[str, np.ndarray]:
  """The inverse of `encoder_params_from_hf`."""
  return find_family(config).params_to_hf(params, config)


def get_width(config: EncoderConfig) -> int:
  """The length of a hidden state."""
  return find_family(config).get_width(config)


def get_max_length(config: EncoderConfig) -> int | None:
  """The longest text in tokens; None: no limit, as with T5's distances."""
  return find_family(config).get_max_length(config)


def with_dropout(config: Any, rate: float) -> Any:
  """The same sizes with another dropout rate, in all places alike."""
  names = find_family(config).dropout_fields
  return dataclasses.replace(config, **dict.fromkeys(names, rate))
