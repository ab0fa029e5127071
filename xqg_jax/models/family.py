"""Encoder family: what a dual encoder asks of a kind of transformer."""

import abc
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from xqg_jax.models.parameters import Params, Place


@runtime_checkable
class EncoderConfig(Protocol):
  """Sizes of a transformer; a frozen dataclass."""

  __dataclass_fields__: ClassVar[dict[str, Any]]

  @property
  def vocab_size(self) -> int:
    """Rows of the table of token embeddings."""
    ...

  def to_hf(self) -> dict[str, Any]:
    """The contents of Hugging Face's `config.json`."""
    ...


class Family(abc.ABC):
  """Encoders of one architecture: their sizes, modules and files.

  A module is called with tokens, segment ids and positions of packed rows and
  `deterministic=`, and gives the last hidden state. Its `config` is of
  `config_type`; its `selects_tokens` tells whether it takes `kept=` as well,
  the columns whose hidden states are wanted.

  Attributes:
    model_types: names that Hugging Face's `config.json` has for it.
    config_type: its class of sizes.
    vocabulary_name: the tensor of a file with a row for each token.
    dropout_fields: the config's dropout rates.
  """

  model_types: ClassVar[Sequence[str]]
  config_type: ClassVar[type]
  vocabulary_name: ClassVar[str]
  dropout_fields: ClassVar[Sequence[str]]

  @abc.abstractmethod
  def read_config(self, values: Mapping[str, Any], where: object) -> Any:
    """As `encoder_families.read_encoder_config`."""

  @abc.abstractmethod
  def config_to_hf(self, config: Any) -> dict[str, Any]:
    """As `encoder_families.encoder_config_to_hf`."""

  @abc.abstractmethod
  def make(self, config: Any, dtype: jnp.dtype) -> nn.Module:
    """As `encoder_families.make_encoder`."""

  @abc.abstractmethod
  def params_from_hf(
    self, tensors: Mapping[str, np.ndarray], config: Any, *, place: Place
  ) -> Params:
    """As `encoder_families.encoder_params_from_hf`."""

  @abc.abstractmethod
  def params_to_hf(self, params: Params, config: Any) -> dict[str, np.ndarray]:
    """The inverse of `params_from_hf`."""

  @abc.abstractmethod
  def get_width(self, config: Any) -> int:
    """The length of a hidden state."""

  @abc.abstractmethod
  def get_max_length(self, config: Any) -> int | None:
    """The longest text in tokens; None: no limit."""

  @abc.abstractmethod
  def get_constants(self, config: Any) -> dict[str, Any]:
    """What changes vectors although parameters have equal paths and shapes."""

  def prepare_module(self, module: Any, *, is_cpu: bool) -> nn.Module:
    """The module in the form that embeds texts fastest."""
    del is_cpu
    return module

  def prepare_params(
    self, module: Any, params: Params, *, is_cpu: bool
  ) -> Params:
    """What that form takes of the parameters of `module`."""
    del module, is_cpu
    return params
