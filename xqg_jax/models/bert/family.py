"""BERT, XLM-R and RoBERTa as encoders of a dual encoder."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from xqg_jax.models.bert.config import ARCHITECTURES, DPR_TYPE, BertConfig
from xqg_jax.models.bert.conversion import params_from_hf, params_to_hf
from xqg_jax.models.bert.encoder import BertEncoder, join_projections
from xqg_jax.models.family import Family
from xqg_jax.models.parameters import Params, Place

_CONSTANTS = (
  "model_type",
  "num_attention_heads",
  "layer_norm_eps",
  "pad_token_id",
)


class BertFamily(Family):
  """mBERT, MiniLM, multilingual-e5, XLM-R, DPR."""

  model_types: ClassVar[Sequence[str]] = (*ARCHITECTURES, DPR_TYPE)
  config_type: ClassVar[type] = BertConfig
  vocabulary_name: ClassVar[str] = "embeddings.word_embeddings"
  dropout_fields: ClassVar[Sequence[str]] = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
  )

  def read_config(self, values: Mapping[str, Any], where: object) -> BertConfig:
    """As `Family.read_config`."""
    return BertConfig.from_hf(values, where=where)

  def config_to_hf(self, config: BertConfig) -> dict[str, Any]:
    """As `Family.config_to_hf`."""
    return config.to_hf()

  def make(self, config: BertConfig, dtype: jnp.dtype) -> BertEncoder:
    """As `Family.make`."""
    return BertEncoder(config, dtype)

  def params_from_hf(
    self, tensors: Mapping[str, np.ndarray], config: BertConfig, *, place: Place
  ) -> Params:
    """As `Family.params_from_hf`."""
    return params_from_hf(tensors, config, place=place)

  def params_to_hf(
    self, params: Params, config: BertConfig
  ) -> dict[str, np.ndarray]:
    """As `Family.params_to_hf`."""
    return params_to_hf(params, config)

  def get_width(self, config: BertConfig) -> int:
    """As `Family.get_width`."""
    return config.hidden_size

  def get_max_length(self, config: BertConfig) -> int:
    """As `Family.get_max_length`."""
    return config.max_length

  def get_constants(self, config: BertConfig) -> dict[str, Any]:
    """As `Family.get_constants`."""
    return {name: getattr(config, name) for name in _CONSTANTS}

  def prepare_module(self, module: BertEncoder, *, is_cpu: bool) -> BertEncoder:
    """On a CPU one wide product is faster than three."""
    return module.clone(join_projections=is_cpu)

  def prepare_params(
    self, module: BertEncoder, params: Params, *, is_cpu: bool
  ) -> Params:
    """Rounds kernels beforehand and joins projections on a CPU.

    A BERT that computes in bfloat16 rounds its kernels before each product;
    rounded once, they give the same vectors from half the memory.
    """

    def convert(path: Sequence[Any], value: Any) -> Any:
      is_kernel = path[-1].key == "kernel" and module.dtype != jnp.float32
      return jnp.asarray(value).astype(module.dtype) if is_kernel else value

    params = jax.tree.map_with_path(convert, dict(params))
    return join_projections(params) if is_cpu else params
