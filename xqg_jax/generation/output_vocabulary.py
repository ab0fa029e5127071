"""Output vocabulary: the tokens that a generated query may contain.

A multilingual vocabulary is mostly other languages. The tokens that occur in
real text of one, with the single characters that spell everything else, are a
few per cent of mT5's 250,112, and choosing among them is as much faster.
"""

import dataclasses
import hashlib
import os
import string
import unicodedata
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Int

from xqg_jax.data.generated_queries import list_shards
from xqg_jax.data.json_lines import get_field, read_json_lines
from xqg_jax.data.languages import Language
from xqg_jax.errors import InputError
from xqg_jax.io.files import read_lines
from xqg_jax.io.paths import to_path
from xqg_jax.text.tokenizer import Tokenizer

NUM_SENTINELS = 100
# The tokens of all languages together are filled up to a multiple of this.
_WIDTH = 1024
_BATCH = 10_000
# One text in so many tells what a table made of the others lacks.
_HELD_OUT = 10
_NO_LIMIT = 2**30

TextSource = str | os.PathLike | Mapping[str, str | os.PathLike]


@dataclasses.dataclass(frozen=True)
class LanguageVocabulary:
  """The tokens of one language.

  Attributes:
    token_ids: rising.
    num_texts: that they were found in.
    unseen_share: of the tokens in a tenth of the texts, how many a table made
      of the other nine tenths lacks: what the table costs.
  """

  token_ids: Int[np.ndarray, " n"]
  num_texts: int
  unseen_share: float

  def describe(self) -> dict[str, int | float | str]:
    """What a manifest says of the table."""
    return {
      "num_tokens": len(self.token_ids),
      "num_texts": self.num_texts,
      "unseen_share": round(self.unseen_share, 6),
      "sha256": hashlib.sha256(self.token_ids.tobytes()).hexdigest(),
    }


def make_vocabulary_mask(
  tokenizer: Tokenizer, vocab_size: int
) -> Bool[np.ndarray, " vocab"]:
  """Marks the ids that may be written in a query.

  Left out are padding, the unknown token, sentinels (`<extra_id_0>`, which mT5
  falls back to before it has learnt its task) and the ids beyond the
  tokenizer's vocabulary, for which the embedding table may have rows.
  """
  mask = np.arange(vocab_size) < tokenizer.vocab_size
  names = [f"<extra_id_{number}>" for number in range(NUM_SENTINELS)]
  if unknown := tokenizer.special_tokens.get("unk_token"):
    names.append(unknown)
  for ids in tokenizer.encode_batch(names, max_length=16):
    inner = [token for token in ids if token != tokenizer.eos_id]
    if len(inner) == 1:  # Several pieces: not a token of this vocabulary.
      mask[inner] = False
  mask[tokenizer.pad_id] = False
  return mask


def make_language_vocabularies(
  tokenizer: Tokenizer,
  source: TextSource,
  languages: Sequence[Language],
  *,
  vocab_size: int,
) -> dict[str, LanguageVocabulary]:
  """Finds the tokens of each language in real text.

  A table holds every token of the texts; the single characters of the
  language's scripts, ASCII letters, digits and punctuation, so that any name
  can be spelled; and the end token. Nothing that `make_vocabulary_mask` leaves
  out is in it.

  Args:
    tokenizer: of the query generator.
    source: as `read_texts` takes it.
    languages: to make tables for.
    vocab_size: of the query generator.

  Returns:
    The tables by language code.

  Raises:
    InputError: a language without text, or what `read_texts` says.
  """
  is_text = make_vocabulary_mask(tokenizer, vocab_size)
  characters = _find_single_characters(tokenizer)
  tables = {}
  for language in languages:
    texts = list(read_texts(source, language.code))
    if not texts:
      raise InputError(
        f"no text in {language.name} ({language.code}) to find its tokens in",
        where=source if isinstance(source, str | os.PathLike) else None,
        mend="add some thousand sentences or questions, or drop the language",
      )
    ids, unseen_share = _find_tokens(tokenizer, texts)
    ids |= {
      token
      for token, character in characters.items()
      if _is_writable(character, language)
    }
    if tokenizer.eos_id is not None:
      ids.add(tokenizer.eos_id)
    kept = [token for token in sorted(ids) if is_text[token]]
    tables[language.code] = LanguageVocabulary(
      np.array(kept, np.int32), len(texts), unseen_share
    )
  return tables


def _find_tokens(
  tokenizer: Tokenizer, texts: Sequence[str]
) -> tuple[set[int], float]:
  """The tokens of all texts; the share that a tenth has for itself."""
  kept, held_out = set(), []
  for start in range(0, len(texts), _BATCH):
    rows = tokenizer.encode_batch(
      texts[start : start + _BATCH], max_length=_NO_LIMIT
    )
    for number, row in enumerate(rows, start):
      if number % _HELD_OUT == _HELD_OUT - 1:
        held_out.extend(row.tolist())
      else:
        kept.update(row.tolist())
  missing = sum(token not in kept for token in held_out)
  return kept | set(held_out), missing / max(1, len(held_out))


def _find_single_characters(tokenizer: Tokenizer) -> dict[int, str]:
  """Tokens that are one character, apart from a blank before it."""
  texts = tokenizer.decode_batch(
    [token] for token in range(tokenizer.vocab_size)
  )
  stripped = {token: text.strip() for token, text in enumerate(texts)}
  return {token: text for token, text in stripped.items() if len(text) == 1}


def _is_writable(character: str, language: Language) -> bool:
  if character in string.printable:
    return True
  script = unicodedata.name(character, "").replace("-", " ").split(" ")[0]
  return script in language.scripts or not language.scripts


def read_texts(source: TextSource, language: str) -> Iterator[str]:
  """Yields the texts of one language.

  Args:
    source: plain text files by language code, one text a line; or one JSONL
      file or a folder of such, optionally .gz, of questions (`question`,
      `lang`), training pairs (`query`, `lang`) or generated queries.
    language: code.

  Raises:
    InputError: a missing or malformed file.
  """
  if isinstance(source, Mapping):
    if language in source:
      yield from (text for _, text in read_lines(source[language]))
    return
  for path in list_shards(to_path(source)):
    for where, row in read_json_lines(path):
      if "generated_queries" in row:
        yield from row["generated_queries"].get(language, ())
      elif str(get_field(row, "lang", where)).strip() == language:
        yield get_field(row, "query" if "query" in row else "question", where)


def join_vocabularies(
  vocabularies: Mapping[str, LanguageVocabulary],
) -> tuple[Int[np.ndarray, " n"], Bool[np.ndarray, "languages n"]]:
  """The tokens of any language, and which of them each language has.

  One product then serves rows of all languages. The ids are filled up with 0s
  that no language has.

  >>> join_vocabularies(
  ...   {
  ...     "fi": LanguageVocabulary(np.array([3, 7], np.int32), 1, 0.0),
  ...     "te": LanguageVocabulary(np.array([7, 9], np.int32), 1, 0.0),
  ...   }
  ... )[1][:, :4].astype(int)
  array([[1, 1, 0, 0],
         [0, 1, 1, 0]])
  """
  tables = [table.token_ids for table in vocabularies.values()]
  joined = np.unique(np.concatenate(tables)).astype(np.int32)
  spare = -len(joined) % _WIDTH
  allowed = np.stack([np.isin(joined, table) for table in tables])
  return np.pad(joined, (0, spare)), np.pad(allowed, ((0, 0), (0, spare)))
