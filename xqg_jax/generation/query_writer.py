"""Query writer: what writes the queries of passages, whatever model it has.

A new one is a subclass of `QueryWriter` in `writers/`, which `open_writer`
there opens.
"""

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from xqg_jax.data.languages import Language
from xqg_jax.data.passages import Passage
from xqg_jax.errors import InputError
from xqg_jax.generation.sampling import Sampling
from xqg_jax.text.prompts import LANGUAGE_IN


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuerySettings:
  """What decides the queries of a passage, beside the model.

  Attributes:
    languages: to write queries in.
    num_queries: queries for each passage and language.
    sampling: how tokens are drawn.
    max_input_length: tokens of a prompt; the end of longer ones is cut.
    max_query_length: tokens of a query.
    seed: of all random draws.
    batch_size: passages in one language worked on at a time on each device.
    language_in: "prompt": each language has a prompt of its own, which names
      it; "decoder": one prompt serves all, and queries begin with the
      language's name, which is then taken off.
  """

  languages: tuple[Language, ...]
  num_queries: int
  sampling: Sampling
  max_input_length: int
  max_query_length: int
  seed: int
  batch_size: int
  language_in: str = "prompt"

  def __post_init__(self):
    if not self.languages:
      raise InputError("no languages are given", mend="set LANGUAGES")
    if self.language_in not in LANGUAGE_IN:
      raise InputError(
        f"language_in is {self.language_in!r}",
        mend="use one of " + ", ".join(LANGUAGE_IN),
      )
    for name in ("num_queries", "max_query_length", "batch_size"):
      if getattr(self, name) < 1:
        raise InputError(
          f"{name} is {getattr(self, name)}", mend="use 1 or more"
        )
    if self.max_input_length < 16:
      raise InputError(
        f"max_input_length is {self.max_input_length}, and no passage fits in",
        mend="use 16 or more",
      )

  @property
  def prompt_languages(self) -> tuple[Language | None, ...]:
    """The languages that prompts name; None where they name none."""
    return self.languages if self.language_in == "prompt" else (None,)


@dataclasses.dataclass(frozen=True)
class Prompt:
  """One passage in one language or in all, as a writer asks for its queries.

  Attributes:
    row: the passage's place among those written together.
    passage_id: its id.
    languages: codes of those to write queries in.
    is_cut: whether the passage's end was cut off.
  """

  row: int
  passage_id: str
  languages: tuple[str, ...]
  is_cut: bool


@dataclasses.dataclass(frozen=True)
class WrittenQueries:
  """The queries of some passages.

  Attributes:
    queries: of each passage, by language.
    unfinished: of each passage and language, how many queries were broken off
      at the limit.
  """

  queries: list[dict[str, list[str]]]
  unfinished: list[dict[str, int]]


PromptType = TypeVar("PromptType", bound=Prompt)


class QueryWriter(abc.ABC, Generic[PromptType]):
  """Writes queries; a passage's do not depend on those beside it.

  Attributes:
    settings: what decides the queries, beside the model.
  """

  settings: QuerySettings

  @abc.abstractmethod
  def describe(self) -> dict[str, Any]:
    """What else decides the queries, for the claim; `generator` first."""

  @abc.abstractmethod
  def make_prompts(self, passages: Sequence[Passage]) -> list[PromptType]:
    """Prompts of all passages in all languages; needs no device."""

  @abc.abstractmethod
  def write_prompts(
    self,
    prompts: Sequence[PromptType],
    num_passages: int,
    *,
    on_progress: Callable[[int], Any] = lambda num_queries: None,
  ) -> WrittenQueries:
    """Writes the queries that `prompts` ask for.

    Args:
      prompts: from `make_prompts`; their queries do not depend on each other.
      num_passages: how many passages they were made of.
      on_progress: told the number of queries written since it was last told.

    Raises:
      InputError: the model's states are not finite.
    """

  def write(
    self,
    passages: Sequence[Passage],
    on_progress: Callable[[int], Any] = lambda num_queries: None,
  ) -> WrittenQueries:
    """Writes the queries of `passages`; see `write_prompts`."""
    prompts = self.make_prompts(passages)
    return self.write_prompts(prompts, len(passages), on_progress=on_progress)
