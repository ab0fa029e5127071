"""Writes the queries of some passages: prompts, batches, decoding, texts.

Shapes are few and fixed: a prompt is padded to one of a handful of lengths by
its own length, and a batch always has the same number of rows. So a prompt is
computed alike whatever is decoded with it, and little is compiled.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Int, UInt32

from xqg_jax import sharding
from xqg_jax.checkpoints import QueryGenerator
from xqg_jax.decoding import (
  Sampling,
  decode,
  make_row_keys,
  make_vocabulary_mask,
)
from xqg_jax.errors import InputError
from xqg_jax.languages import Language
from xqg_jax.prompts import (
  check_limit,
  cut_prompt,
  make_prompt,
  make_prompt_parts,
)
from xqg_jax.records import Passage

_NUM_BUCKETS = 4
# Tokens of the longest text.
_NO_LIMIT = 2**30


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
    batch_size: prompts decoded at a time on each device.
  """

  languages: tuple[Language, ...]
  num_queries: int
  sampling: Sampling
  max_input_length: int
  max_query_length: int
  seed: int
  batch_size: int

  def __post_init__(self):
    if not self.languages:
      raise InputError("no languages are given", mend="set LANGUAGES")
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


@dataclasses.dataclass(frozen=True)
class Prompt:
  """One passage in one language, tokenised.

  Attributes:
    row: the passage's place among those written together.
    passage_id: its id.
    language: code.
    tokens: of the prompt, with the end token.
    is_cut: whether the passage's end was cut off.
  """

  row: int
  passage_id: str
  language: str
  tokens: Int[np.ndarray, " length"]
  is_cut: bool


@dataclasses.dataclass(frozen=True)
class PromptBatch:
  """Prompts of one shape; the rows beyond `prompts` are padding."""

  prompts: Sequence[Prompt]
  tokens: Int[np.ndarray, "rows length"]
  keys: UInt32[np.ndarray, "rows samples 2"]


@dataclasses.dataclass(frozen=True)
class WrittenQueries:
  """The queries of some passages.

  Attributes:
    queries: of each passage, by language.
    num_cut_prompts: prompts that were longer than the limit.
  """

  queries: list[dict[str, list[str]]]
  num_cut_prompts: int


def bucket_lengths(max_input_length: int) -> list[int]:
  """The lengths that prompts are padded to.

  >>> bucket_lengths(256)
  [64, 128, 192, 256]
  >>> bucket_lengths(20)
  [8, 16, 24]
  """
  step = -(-max_input_length // (8 * _NUM_BUCKETS)) * 8
  count = -(-max_input_length // step)
  return [step * (number + 1) for number in range(count)]


class QueryWriter:
  """Writes queries with one model, on the devices given."""

  def __init__(
    self,
    generator: QueryGenerator,
    settings: QuerySettings,
    devices: Sequence[jax.Device] | None = None,
  ):
    """Puts the model on `devices` (all of this host when absent)."""
    self.generator = generator
    self.settings = settings
    self.mesh = sharding.make_mesh(devices=devices)
    self._rows = settings.batch_size * self.mesh.devices.size
    allowed = make_vocabulary_mask(
      generator.tokenizer, generator.config.vocab_size
    )
    self._params, self._allowed = jax.device_put(
      (generator.params, allowed), sharding.replicated(self.mesh)
    )

  def make_prompts(self, passages: Sequence[Passage]) -> list[Prompt]:
    """Tokenises the prompts of all passages in all languages."""
    prompts = []
    limit = self.settings.max_input_length
    for language in self.settings.languages:
      # One more than fits tells which prompts are too long.
      rows = self.generator.tokenizer.encode_batch(
        [make_prompt(passage, language) for passage in passages],
        max_length=limit + 1,
      )
      for row, (passage, tokens) in enumerate(zip(passages, rows, strict=True)):
        is_cut = len(tokens) > limit
        if is_cut:
          tokens = self._cut(passage, language)
        prompts.append(
          Prompt(row, passage.passage_id, language.code, tokens, is_cut)
        )
    return prompts

  def _cut(
    self, passage: Passage, language: Language
  ) -> Int[np.ndarray, " length"]:
    """The tokens of a prompt that is too long, cut as in training."""
    limit = self.settings.max_input_length
    parts = make_prompt_parts(passage, language)
    rows = self.generator.tokenizer.encode_batch(parts, max_length=_NO_LIMIT)
    # Each row ends with the end of sequence.
    num_instruction, num_head, _ = (len(row) - 1 for row in rows)
    check_limit(limit, num_instruction)
    kept = cut_prompt(
      rows[2][:-1],
      num_instruction=num_instruction,
      num_head=num_head,
      limit=limit - 1,
    )
    return np.append(kept, rows[2][-1])

  def make_batches(self, prompts: Sequence[Prompt]) -> Iterator[PromptBatch]:
    """Batches of the prompts, by length and, within that, by language.

    Languages stay together as their queries are of similar length: a batch
    takes as many steps as its longest query.
    """
    lengths = bucket_lengths(self.settings.max_input_length)
    by_length = collections.defaultdict(list)
    for prompt in prompts:
      length = next(n for n in lengths if n >= len(prompt.tokens))
      by_length[length].append(prompt)
    for length in sorted(by_length):
      these = by_length[length]
      for start in range(0, len(these), self._rows):
        yield self._make_batch(these[start : start + self._rows], length)

  def _make_batch(self, prompts: Sequence[Prompt], length: int) -> PromptBatch:
    settings = self.settings
    pad_id = self.generator.config.pad_id
    tokens = np.full((self._rows, length), pad_id, np.int32)
    for row, prompt in enumerate(prompts):
      tokens[row, : len(prompt.tokens)] = prompt.tokens
    keys = np.zeros((self._rows, settings.num_queries, 2), np.uint32)
    keys[: len(prompts)] = make_row_keys(
      [prompt.passage_id for prompt in prompts],
      [prompt.language for prompt in prompts],
      num_samples=settings.num_queries,
      seed=settings.seed,
    )
    return PromptBatch(prompts, tokens, keys)

  def write(
    self,
    passages: Sequence[Passage],
    on_progress: Callable[[int], Any] = lambda num_queries: None,
  ) -> WrittenQueries:
    """Writes the queries of `passages`.

    Args:
      passages: any number; their queries do not depend on each other.
      on_progress: told the number of queries written since it was last told.

    Raises:
      InputError: the model's states are not finite.
    """
    prompts = self.make_prompts(passages)
    queries = [
      {language.code: [] for language in self.settings.languages}
      for _ in passages
    ]
    for batch, texts in self._decode_all(self.make_batches(prompts)):
      for prompt, its_texts in zip(batch.prompts, texts, strict=True):
        queries[prompt.row][prompt.language] = its_texts
      on_progress(len(batch.prompts) * self.settings.num_queries)
    return WrittenQueries(queries, sum(prompt.is_cut for prompt in prompts))

  def _decode_all(
    self, batches: Iterator[PromptBatch]
  ) -> Iterator[tuple[PromptBatch, list[list[str]]]]:
    """Decodes batches; the device works on one ahead of the one yielded."""
    waiting: collections.deque = collections.deque()
    for batch in batches:
      waiting.append((batch, self._start(batch)))
      if len(waiting) == 2:
        yield self._finish(*waiting.popleft())
    while waiting:
      yield self._finish(*waiting.popleft())

  def _start(
    self, batch: PromptBatch
  ) -> tuple[Int[Array, "rows samples length"], Bool[Array, ""]]:
    tokens, keys = sharding.shard_batch(self.mesh, (batch.tokens, batch.keys))
    return decode(
      self.generator.module,
      self._params,
      tokens,
      keys,
      self._allowed,
      sampling=self.settings.sampling,
      max_length=self.settings.max_query_length,
    )

  def _finish(
    self,
    batch: PromptBatch,
    decoded: tuple[Int[Array, "rows samples length"], Bool[Array, ""]],
  ) -> tuple[PromptBatch, list[list[str]]]:
    tokens, is_finite = jax.device_get(decoded)
    if not is_finite:
      raise InputError(
        "the query generator's states are not finite at passage "
        f"{batch.prompts[0].passage_id!r} or near it",
        mend="check the checkpoint for overflow, or compute in float32",
      )
    return batch, [
      self._to_texts(rows) for rows in tokens[: len(batch.prompts)]
    ]

  def _to_texts(self, rows: Int[np.ndarray, "samples length"]) -> list[str]:
    cfg = self.generator.config
    is_text = (rows != cfg.pad_id) & (rows != cfg.eos_id)
    ids = [row[keep] for row, keep in zip(rows, is_text, strict=True)]
    texts = self.generator.tokenizer.decode_batch(ids)
    return [" ".join(text.split()) for text in texts]
