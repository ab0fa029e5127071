"""Configuration of a dual encoder: pooling, prefixes, lengths, projection."""

import dataclasses
from typing import Literal

import jax.numpy as jnp

from xqg_jax.data.passages import Passage
from xqg_jax.errors import InputError
from xqg_jax.models.dual_encoder.pooling import POOLINGS

Side = Literal["query", "passage"]
SIDES: tuple[Side, ...] = ("query", "passage")
ACTIVATIONS = {"identity": lambda x: x, "tanh": jnp.tanh}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProjectionConfig:
  """A dense layer after pooling, as sentence-transformers' `Dense`.

  Attributes:
    size: the length of an embedding.
    use_bias: whether a bias is added.
    activation: "identity" or "tanh".
  """

  size: int
  use_bias: bool = True
  activation: str = "identity"

  def __post_init__(self):
    if self.size < 1:
      raise InputError(
        f"the projection's size is {self.size}", mend="give it 1 or more"
      )
    if self.activation not in ACTIVATIONS:
      raise InputError(
        f"the projection's activation is {self.activation!r}",
        mend=f"choose {' or '.join(map(repr, ACTIVATIONS))}",
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DualEncoderConfig:
  """How texts become embeddings.

  Attributes:
    pooling: `cls` takes the first token's hidden state, `mean` the average.
    normalize: whether embeddings have unit length.
    query_prefix: put before every question and generated query.
    passage_prefix: put before every passage.
    query_length: tokens of a query, special tokens included; more are cut.
    passage_length: the same for a passage.
    projection: the layer between pooling and normalisation; None: no layer.
    share_encoders: whether queries and passages have the same parameters.
  """

  pooling: str
  normalize: bool
  query_prefix: str = ""
  passage_prefix: str = ""
  query_length: int = 32
  passage_length: int = 128
  projection: ProjectionConfig | None = None
  share_encoders: bool = True

  def __post_init__(self):
    if self.pooling not in POOLINGS:
      raise InputError(
        f"pooling is {self.pooling!r}",
        mend=f"choose {' or '.join(map(repr, POOLINGS))}",
      )
    for name in ("query_length", "passage_length"):
      if getattr(self, name) < 3:
        raise InputError(
          f"{name} is {getattr(self, name)}", mend="give it 3 tokens or more"
        )

  def format_query(self, query: str) -> str:
    """The text that is tokenised for a query."""
    return self.query_prefix + query

  def format_passage(self, passage: Passage) -> str:
    """The text that is tokenised for a passage: its title, then its text."""
    words = [passage.title, passage.text] if passage.title else [passage.text]
    return self.passage_prefix + " ".join(words)

  def to_side(self, side: Side | None) -> Side | None:
    """The side whose parameters embed a text; None where both share them."""
    return None if self.share_encoders else side


def side_name(side: Side) -> str:
  """The key of a side's parameters, and the name of its folder.

  >>> side_name("query")
  'query_encoder'
  """
  return f"{side}_encoder"
