"""Query writer of mT5 and T5: tokenised prompts, decoded on devices."""

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from xqg_jax.checkpoints import QueryGenerator, load_query_generator
from xqg_jax.data.languages import Language
from xqg_jax.data.passages import Passage
from xqg_jax.errors import InputError
from xqg_jax.generation.output_vocabulary import (
  LanguageVocabulary,
  TextSource,
  join_vocabularies,
  make_language_vocabularies,
  make_vocabulary_mask,
)
from xqg_jax.generation.query_writer import (
  Prompt,
  QuerySettings,
  QueryWriter,
  WrittenQueries,
)
from xqg_jax.generation.sampling import make_row_keys
from xqg_jax.generation.slot_decoder import SlotDecoder
from xqg_jax.runtime import sharding
from xqg_jax.runtime.sharding import Device
from xqg_jax.text.prompts import (
  check_limit,
  cut_prompt,
  make_decoder_start,
  make_prompt,
  make_prompt_parts,
  shorten,
)

# Tokens of the longest text.
_NO_LIMIT = 2**30


def open_t5_writer(
  checkpoint_path: str | os.PathLike,
  settings: QuerySettings,
  *,
  tokenizer_path: str | os.PathLike | None = None,
  language_in: str | None = None,
  dtype: str = "float32",
  vocabulary_texts: TextSource | None = None,
) -> "T5QueryWriter":
  """As `writers.open_writer`."""
  generator = load_query_generator(
    checkpoint_path, tokenizer_path=tokenizer_path, dtype=dtype
  )
  language_in = _find_language_in(generator, language_in)
  settings = dataclasses.replace(settings, language_in=language_in)
  _check_languages(generator, settings)
  vocabularies = None
  if vocabulary_texts:
    vocabularies = make_language_vocabularies(
      generator.tokenizer,
      vocabulary_texts,
      settings.languages,
      vocab_size=generator.config.vocab_size,
    )
  return T5QueryWriter(generator, settings, vocabularies=vocabularies)


def _find_language_in(generator: QueryGenerator, wanted: str | None) -> str:
  """What names the language, by the checkpoint and by what is asked for."""
  trained = generator.language_in
  if None not in (trained, wanted) and trained != wanted:
    raise InputError(
      f"LANGUAGE_IN is {wanted!r}, but the checkpoint was trained with the "
      f"language in the {trained}",
      mend="leave LANGUAGE_IN out",
    )
  return wanted or trained or "prompt"


def _check_languages(
  generator: QueryGenerator, settings: QuerySettings
) -> None:
  """Warns of languages that the generator has not been trained for."""
  if not generator.languages:
    return
  others = [
    f"{language.name} ({language.code})"
    for language in settings.languages
    if language.code not in generator.languages
  ]
  if others:
    print(
      f"xqg: warning: the checkpoint was not trained for {', '.join(others)}, "
      f"only for {', '.join(generator.languages)}",
      file=sys.stderr,
    )


@dataclasses.dataclass(frozen=True)
class TokenPrompt(Prompt):
  """A prompt, tokenised.

  Attributes:
    tokens: with the end token.
  """

  tokens: Int[np.ndarray, " length"]


class T5QueryWriter(QueryWriter[TokenPrompt]):
  """Writes queries with one model, on the devices given."""

  def __init__(
    self,
    generator: QueryGenerator,
    settings: QuerySettings,
    devices: Sequence[Device] | None = None,
    *,
    vocabularies: Mapping[str, LanguageVocabulary] | None = None,
    refill: bool = True,
  ):
    """Puts the model on `devices`.

    Args:
      generator: the model.
      settings: what decides the queries.
      devices: all of this host when absent.
      vocabularies: by language, the tokens to choose from; None: all.
      refill: see `SlotDecoder`; decides the speed, not the queries.
    """
    self.generator = generator
    self.settings = settings
    self._vocabularies = vocabularies
    mask = make_vocabulary_mask(
      generator.tokenizer, generator.config.vocab_size
    )
    token_ids, allowed, self._tables = None, mask[None], {}
    if vocabularies is not None:
      token_ids, allowed = join_vocabularies(vocabularies)
      self._tables = {code: row for row, code in enumerate(vocabularies)}
    self._starts = self._make_starts()
    languages_a_prompt = len(settings.languages) // len(
      settings.prompt_languages
    )
    self.decoder = SlotDecoder(
      generator.module,
      generator.params,
      mesh=sharding.make_mesh(devices=devices or jax.local_devices()),
      sampling=settings.sampling,
      num_samples=settings.num_queries * languages_a_prompt,
      max_input_length=settings.max_input_length,
      max_length=settings.max_query_length,
      num_slots=-(-settings.batch_size // languages_a_prompt),
      allowed=allowed,
      token_ids=token_ids,
      num_forced=max(map(len, self._starts.values())),
      refill=refill,
    )

  def describe(self) -> dict[str, Any]:
    """As `QueryWriter.describe`."""
    generator, tables = self.generator, self._vocabularies
    return {
      "generator": {
        "fingerprint": generator.fingerprint,
        "tokenizer_fingerprint": generator.tokenizer.fingerprint,
      },
      "dtype": generator.config.dtype,
      "output_vocabulary": tables
      and {code: table.describe() for code, table in tables.items()},
    }

  def _make_starts(self) -> dict[str, tuple[int, ...]]:
    """By language, the tokens that the decoder begins with."""
    languages = self.settings.languages
    if self.settings.language_in == "prompt":
      return {language.code: () for language in languages}
    rows = self.generator.tokenizer.encode_batch(
      [make_decoder_start(language) for language in languages],
      max_length=_NO_LIMIT,
    )
    starts = [tuple(row[:-1].tolist()) for row in rows]  # without the end
    if len(set(starts)) < len(starts):
      raise InputError(
        "the tokenizer does not tell the names of the languages apart",
        mend="use a generator that was trained with the language in the prompt",
      )
    return dict(zip((known.code for known in languages), starts, strict=True))

  # ------------------------------------------------------------------- prompts

  def make_prompts(self, passages: Sequence[Passage]) -> list[TokenPrompt]:
    """As `QueryWriter.make_prompts`."""
    limit = self.settings.max_input_length
    shortened = [shorten(passage, limit) for passage in passages]
    prompts = []
    for language in self.settings.prompt_languages:
      asked = self.settings.languages if language is None else (language,)
      codes = tuple(language.code for language in asked)
      # One more than fits tells which prompts are too long.
      rows = self.generator.tokenizer.encode_batch(
        [make_prompt(passage, language) for passage in shortened],
        max_length=limit + 1,
      )
      for row, (passage, tokens) in enumerate(zip(passages, rows, strict=True)):
        is_cut = False
        if len(tokens) > limit or shortened[row] is not passage:
          tokens, is_cut = self._cut(passage, shortened[row], language)
        prompts.append(
          TokenPrompt(row, passage.passage_id, codes, is_cut, tokens)
        )
    return prompts

  def _cut(
    self, passage: Passage, shortened: Passage, language: Language | None
  ) -> tuple[Int[np.ndarray, " length"], bool]:
    """The tokens of a prompt that is too long, cut as in training."""
    limit = self.settings.max_input_length
    rows = self._encode_parts(shortened, language)
    if shortened is not passage and len(rows[2]) < 2 * limit:
      rows = self._encode_parts(passage, language)
    # Each row ends with the end of sequence.
    num_instruction, num_head, _ = (len(row) - 1 for row in rows)
    check_limit(limit, num_instruction)
    kept = cut_prompt(
      rows[2][:-1],
      num_instruction=num_instruction,
      num_head=num_head,
      limit=limit - 1,
    )
    return np.append(kept, rows[2][-1]), len(kept) < len(rows[2]) - 1

  def _encode_parts(
    self, passage: Passage, language: Language | None
  ) -> list[Int[np.ndarray, "..."]]:
    parts = make_prompt_parts(passage, language)
    return self.generator.tokenizer.encode_batch(parts, max_length=_NO_LIMIT)

  # ------------------------------------------------------------------- writing

  def write_prompts(
    self,
    prompts: Sequence[TokenPrompt],
    num_passages: int,
    *,
    on_progress: Callable[[int], Any] = lambda num_queries: None,
  ) -> WrittenQueries:
    """As `QueryWriter.write_prompts`."""
    codes = [language.code for language in self.settings.languages]
    queries = [{code: [] for code in codes} for _ in range(num_passages)]
    unfinished = [dict.fromkeys(codes, 0) for _ in range(num_passages)]
    for written in self._decode(prompts):
      for prompt, rows in written:
        for code, tokens in zip(prompt.languages, rows, strict=True):
          queries[prompt.row][code] = self._to_texts(tokens, code)
          is_ended = np.isin(tokens, self.generator.config.end_ids).any(axis=1)
          unfinished[prompt.row][code] = int((~is_ended).sum())
      on_progress(len(written) * self.decoder.num_samples)
    return WrittenQueries(queries, unfinished)

  def _decode(
    self, prompts: Sequence[TokenPrompt]
  ) -> Iterator[
    list[tuple[TokenPrompt, Int[np.ndarray, "languages n length"]]]
  ]:
    """Yields prompts with their queries, in the order of finishing."""
    samples = [
      (prompt.passage_id, code)
      for prompt in prompts
      for code in prompt.languages
    ]
    keys = make_row_keys(
      *zip(*samples, strict=True),
      num_samples=self.settings.num_queries,
      seed=self.settings.seed,
    )
    # [prompts * languages, queries] -> [prompts, languages * queries]
    shape = (len(prompts), self.decoder.num_samples)
    tables = [self._tables.get(code, 0) for _, code in samples]
    starts = self._fill_up([self._starts[code] for _, code in samples])
    repeats = self.settings.num_queries
    for written in self.decoder.decode(
      [prompt.tokens for prompt in prompts],
      keys.reshape(*shape, 2),
      np.repeat(np.array(tables, np.int32), repeats).reshape(shape),
      np.repeat(starts, repeats, axis=0).reshape(*shape, -1),
    ):
      found = []
      for number, (tokens, is_finite) in written.items():
        prompt = prompts[number]
        if not is_finite:
          raise _not_finite(prompt)
        rows = tokens.reshape(len(prompt.languages), repeats, -1)
        found.append((prompt, rows))
      yield found

  def _fill_up(
    self, rows: Sequence[Sequence[int]]
  ) -> Int[np.ndarray, "rows length"]:
    shape = (len(rows), self.decoder.num_forced)
    filled = np.full(shape, self.generator.config.pad_id, np.int32)
    for row, tokens in zip(filled, rows, strict=True):
      row[: len(tokens)] = tokens
    return filled

  def _to_texts(
    self, rows: Int[np.ndarray, "queries length"], language: str
  ) -> list[str]:
    cfg = self.generator.config
    rows = rows[:, len(self._starts[language]) :]
    is_text = (rows != cfg.pad_id) & ~np.isin(rows, cfg.end_ids)
    ids = [row[keep] for row, keep in zip(rows, is_text, strict=True)]
    texts = self.generator.tokenizer.decode_batch(ids)
    return [" ".join(text.split()) for text in texts]


def _not_finite(prompt: Prompt) -> InputError:
  return InputError(
    "the query generator's states are not finite at passage "
    f"{prompt.passage_id!r}",
    mend="check the checkpoint for overflow, or compute in float32",
  )
