"""Tokenizers: Hugging Face's fast ones, loaded from a folder or trained."""

import functools
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import tokenizers
from jaxtyping import Int

from xqg_jax.errors import InputError
from xqg_jax.io.buckets import BucketPath
from xqg_jax.io.files import read_json, write_json, write_text
from xqg_jax.io.local_copies import copy_files
from xqg_jax.io.paths import Path, to_path

TOKENIZER_FILE = "tokenizer.json"
_SMALL_FILES = (".json", ".txt", ".model")
SETTINGS_FILE = "tokenizer_config.json"
_T5_MODEL = "spiece.model"

_ROLES = tuple(
  f"{role}_token" for role in ("pad", "eos", "unk", "bos", "cls", "sep", "mask")
)
# Tried in this order where no file says which token pads or ends a text.
_USUAL_NAMES = {"pad_token": ("<pad>", "[PAD]"), "eos_token": ("</s>",)}


class Tokenizer:
  """Turns texts into token ids with special tokens, and back.

  Attributes:
    vocab_size: the highest token id plus one.
    pad_id: the token that fills up rows.
    eos_id: the token that ends a text, if the tokenizer has one.
    special_tokens: token by role, such as `pad_token`.
  """

  def __init__(
    self, backend: tokenizers.Tokenizer, special_tokens: Mapping[str, str]
  ):
    """Wraps `backend`, whose truncation and padding are turned off."""
    backend.no_padding()
    backend.no_truncation()
    self._backend = backend
    self._max_length = None
    self.special_tokens = dict(special_tokens)
    self.vocab_size = max(backend.get_vocab().values()) + 1
    self.eos_id = self._id_of("eos_token")
    pad_id = self._id_of("pad_token")
    if pad_id is None:
      raise InputError(
        "the tokenizer has no padding token",
        mend=f'name one in {SETTINGS_FILE}: "pad_token"',
      )
    self.pad_id = pad_id

  @property
  def has_words(self) -> bool:
    """Whether there are tokens beside special ones."""
    added = self._backend.get_added_tokens_decoder().values()
    special = {token.content for token in added if token.special}
    special |= {*self.special_tokens.values(), "\u2581"}
    return not special.issuperset(self._backend.get_vocab())

  def _id_of(self, role: str) -> int | None:
    names = (self.special_tokens.get(role), *_USUAL_NAMES[role])
    ids = (self._backend.token_to_id(name) for name in names if name)
    return next((token for token in ids if token is not None), None)

  @functools.cached_property
  def fingerprint(self) -> str:
    """SHA-256 of the tokenizer's JSON without truncation and padding."""
    return hashlib.sha256(self._to_json().encode()).hexdigest()

  def _to_json(self) -> str:
    self._backend.no_truncation()
    self._max_length = None
    return self._backend.to_str()

  def encode_batch(
    self, texts: Sequence[str], *, max_length: int
  ) -> list[Int[np.ndarray, "..."]]:
    """Tokenises texts.

    Args:
      texts: any strings.
      max_length: tokens kept of a text, special tokens included; the end of a
        longer text is cut, special tokens are kept.

    Returns:
      int32 ids of each text, special tokens included, no padding.
    """
    if max_length != self._max_length:
      self._backend.enable_truncation(max_length)
      self._max_length = max_length
    encodings = self._backend.encode_batch_fast(list(texts))
    return [np.array(encoding.ids, np.int32) for encoding in encodings]

  def decode_batch(
    self, ids: Iterable[Sequence[int] | Int[np.ndarray, "..."]]
  ) -> list[str]:
    """The texts of token ids, special tokens left out."""
    rows = [[int(token) for token in row] for row in ids]
    return self._backend.decode_batch(rows, skip_special_tokens=True)

  def save(self, folder: str | os.PathLike) -> None:
    """Writes `tokenizer.json` and the roles of its special tokens."""
    folder = to_path(folder)
    write_text(folder / TOKENIZER_FILE, self._to_json())
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    write_json(folder / SETTINGS_FILE, settings | self.special_tokens)


# --------------------------------------------------------------------- load


def load_tokenizer(folder: str | os.PathLike) -> Tokenizer:
  """Loads the tokenizer of a checkpoint folder.

  `tokenizer.json` is taken as it is. Without one, `transformers` converts
  whatever the folder has (`vocab.txt`, a SentencePiece model). A SentencePiece
  model of T5 without settings gives its own tokens and no others:
  transformers would add a hundred, which mT5 has in its file already.

  Raises:
    InputError: the folder has no tokenizer, or an unreadable one.
  """
  folder = to_path(folder)
  if not folder.is_dir():
    raise InputError("no such folder", where=folder, mend="check the path")
  folder = _copy_small_files(folder)
  path = folder / TOKENIZER_FILE
  if not path.exists():
    return _check_words(_make_tokenizer(folder), folder)
  try:
    backend = tokenizers.Tokenizer.from_file(str(path))
  except Exception as error:  # The library raises bare `Exception`.
    raise InputError(
      f"not a tokenizer ({error})", where=path, mend="copy the file again"
    ) from None
  return _check_words(Tokenizer(backend, _read_special_tokens(folder)), folder)


def _check_words(tokenizer: Tokenizer, folder: Path) -> Tokenizer:
  """Refuses a vocabulary of special tokens alone.

  transformers makes one where a folder has no vocabulary; all texts of equal
  length would be equal.
  """
  if tokenizer.has_words:
    return tokenizer
  raise InputError(
    "no tokenizer, or one that knows special tokens alone",
    where=folder,
    mend=f"copy the model's {TOKENIZER_FILE} there",
  )


def _make_tokenizer(folder: Path) -> Tokenizer:
  """The tokenizer of a folder without `tokenizer.json`."""
  model = folder / _T5_MODEL
  if not model.exists() or (folder / SETTINGS_FILE).exists():
    return _convert_tokenizer(folder)
  from xqg_jax.text.sentencepiece import read_sentencepiece  # imports this one

  return read_sentencepiece(model.read_bytes(), where=model)


def _copy_small_files(folder: Path) -> Path:
  """The folder, or a local copy of a bucket's without its weights."""
  if not isinstance(folder, BucketPath):
    return folder
  files = [p for p in folder.iterdir() if p.suffix in _SMALL_FILES]
  return copy_files(files, folder)


def _convert_tokenizer(folder: Path) -> Tokenizer:
  import transformers  # Slow to import, and seldom needed.

  try:
    converted = transformers.AutoTokenizer.from_pretrained(folder)
    backend = converted.backend_tokenizer
  except (OSError, ValueError, AttributeError, ImportError) as error:
    raise InputError(
      f"no {TOKENIZER_FILE}, and transformers cannot make one "
      f"({str(error).strip().splitlines()[0]})",
      where=folder,
      mend=f"copy the model's {TOKENIZER_FILE} there",
    ) from None
  roles = {
    role: str(token)
    for role in _ROLES
    if (token := getattr(converted, role, None)) is not None
  }
  return Tokenizer(backend, roles)


class AddedToken(TypedDict):
  """A special token with how it is matched."""

  content: str


_Token = str | AddedToken | None


class SpecialTokens(TypedDict, total=False):
  """What is read of the two files in which models name special tokens."""

  bos_token: _Token
  eos_token: _Token
  unk_token: _Token
  sep_token: _Token
  pad_token: _Token
  cls_token: _Token
  mask_token: _Token


def _read_special_tokens(folder: Path) -> dict[str, str]:
  """Token by role, from the two files in which models name them."""
  found = {}
  for name in ("special_tokens_map.json", SETTINGS_FILE):
    if (folder / name).exists():
      values = read_json(folder / name, SpecialTokens)
      found |= {
        role: _content(values[role]) for role in _ROLES if values.get(role)
      }
  return found


def _content(token: str | Mapping[str, Any]) -> str:
  return token if isinstance(token, str) else token["content"]


# -------------------------------------------------------------------- train
