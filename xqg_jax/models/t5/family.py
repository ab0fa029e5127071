"""T5's encoder stack as the encoder of a dual encoder."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from xqg_jax.models.family import Family
from xqg_jax.models.parameters import Params, Place
from xqg_jax.models.t5.config import T5Config
from xqg_jax.models.t5.conversion import params_from_hf, params_to_hf
from xqg_jax.models.t5.encoder import T5Encoder

_STACKS = ("encoder",)
_CONSTANTS = ("num_heads", "max_distance", "layer_norm_epsilon")


class T5Family(Family):
  """The encoders of mT5 and T5 1.1, whatever decoder a file holds beside."""

  model_types: ClassVar[Sequence[str]] = ("mt5", "t5")
  config_type: ClassVar[type] = T5Config
  vocabulary_name: ClassVar[str] = "shared.weight"
  dropout_fields: ClassVar[Sequence[str]] = ("dropout_rate",)

  def read_config(self, values: Mapping[str, Any], where: object) -> T5Config:
    """As `Family.read_config`."""
    return T5Config.from_hf(values, where=where)

  def config_to_hf(self, config: T5Config) -> dict[str, Any]:
    """As `Family.config_to_hf`: of the encoder alone."""
    values = config.to_hf()
    (architecture,) = values["architectures"]
    kind = architecture.removesuffix("ForConditionalGeneration")
    return values | {
      "architectures": [f"{kind}EncoderModel"],
      "is_encoder_decoder": False,
      # Of the one table under its two names, not of an output layer.
      "tie_word_embeddings": True,
    }

  def make(self, config: T5Config, dtype: jnp.dtype) -> T5Encoder:
    """As `Family.make`; refuses float16, which T5's activations exceed."""
    return T5Encoder(dataclasses.replace(config, dtype=dtype.name))

  def params_from_hf(
    self, tensors: Mapping[str, np.ndarray], config: T5Config, *, place: Place
  ) -> Params:
    """As `Family.params_from_hf`."""
    return params_from_hf(tensors, config, stacks=_STACKS, place=place)

  def params_to_hf(
    self, params: Params, config: T5Config
  ) -> dict[str, np.ndarray]:
    """As `Family.params_to_hf`."""
    return params_to_hf(params, config, stacks=_STACKS)

  def get_width(self, config: T5Config) -> int:
    """As `Family.get_width`."""
    return config.emb_dim

  def get_max_length(self, config: T5Config) -> None:
    """As `Family.get_max_length`: relative distances have no limit."""
    del config

  def get_constants(self, config: T5Config) -> dict[str, Any]:
    """As `Family.get_constants`."""
    constants = {name: getattr(config, name) for name in _CONSTANTS}
    return {"model_type": "t5", **constants}
