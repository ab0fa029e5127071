"""Tokenizers: Hugging Face's fast ones, loaded from a folder or trained."""

import collections
import functools
import hashlib
import math
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import tokenizers
from jaxtyping import Int
from tokenizers import (
  decoders,
  models,
  normalizers,
  pre_tokenizers,
  processors,
)

from xqg_jax.errors import InputError
from xqg_jax.files import read_json, write_json, write_text

TOKENIZER_FILE = "tokenizer.json"
SETTINGS_FILE = "tokenizer_config.json"

_ROLES = tuple(
  f"{role}_token" for role in ("pad", "eos", "unk", "bos", "cls", "sep", "mask")
)
# Tried in this order where no file says which token pads or ends a text.
_USUAL_NAMES = {"pad_token": ("<pad>", "[PAD]"), "eos_token": ("</s>",)}

_TRAINED_TOKENS = {
  "bert": {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
  },
  "t5": {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"},
}
_MAX_PIECE = 12  # characters of a trained token
_UNKNOWN_SCORE = -20.0  # below the log probability of every real piece
# Vocabulary after each pruning, in multiples of the wanted size.
_PRUNING = (4, 2, 1, 1, 1)


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
    self.pad_id = self._id_of("pad_token")
    self.eos_id = self._id_of("eos_token")
    if self.pad_id is None:
      raise InputError(
        "the tokenizer has no padding token",
        mend=f'name one in {SETTINGS_FILE}: "pad_token"',
      )

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
    folder = pathlib.Path(folder)
    write_text(folder / TOKENIZER_FILE, self._to_json())
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    write_json(folder / SETTINGS_FILE, settings | self.special_tokens)


# --------------------------------------------------------------------- load


def load_tokenizer(folder: str | os.PathLike) -> Tokenizer:
  """Loads the tokenizer of a checkpoint folder.

  `tokenizer.json` is taken as it is. Without one, `transformers` converts
  whatever the folder has (`vocab.txt`, a SentencePiece model).

  Raises:
    InputError: the folder has no tokenizer, or an unreadable one.
  """
  folder = pathlib.Path(folder)
  if not folder.is_dir():
    raise InputError("no such folder", where=folder, mend="check the path")
  path = folder / TOKENIZER_FILE
  if not path.exists():
    return _convert_tokenizer(folder)
  try:
    backend = tokenizers.Tokenizer.from_file(str(path))
  except Exception as error:  # The library raises bare `Exception`.
    raise InputError(
      f"not a tokenizer ({error})", where=path, mend="copy the file again"
    ) from None
  return Tokenizer(backend, _read_special_tokens(folder))


def _convert_tokenizer(folder: pathlib.Path) -> Tokenizer:
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


def _read_special_tokens(folder: pathlib.Path) -> dict[str, str]:
  """Token by role, from the two files in which models name them."""
  found = {}
  for name in ("special_tokens_map.json", SETTINGS_FILE):
    if (folder / name).exists():
      values = read_json(folder / name)
      found |= {
        role: _content(values[role]) for role in _ROLES if values.get(role)
      }
  return found


def _content(token: str | Mapping[str, Any]) -> str:
  return token if isinstance(token, str) else token["content"]


# -------------------------------------------------------------------- train


def train_tokenizer(
  texts: Iterable[str], *, vocab_size: int, style: Literal["bert", "t5"]
) -> Tokenizer:
  """Trains a unigram tokenizer over NFKC text; same texts, same tokenizer.

  A unigram model, as mT5's and XLM-R's, cuts a name into the same syllables
  wherever it stands, which merges of pairs (BPE) do not.

  Args:
    texts: the training texts, read once.
    vocab_size: tokens at most, special tokens and alphabet included.
    style: `bert` puts texts between `[CLS]` and `[SEP]` and pads with 0;
      `t5` ends them with `</s>` (1) and pads with 0.
  """
  roles = _TRAINED_TOKENS[style]
  special = list(roles.values())
  backend = _make_unigram({}, special, roles["unk_token"])
  words = collections.Counter(
    word
    for text in texts
    for word, _ in backend.pre_tokenizer.pre_tokenize_str(
      backend.normalizer.normalize_str(text)
    )
  )
  num_pieces = vocab_size - len(special)
  pieces = _prune(_count_substrings(words), 8 * num_pieces)
  for factor in _PRUNING:
    backend = _make_unigram(pieces, special, roles["unk_token"])
    pieces = _prune(_count_pieces(backend, words), factor * num_pieces)
  backend = _make_unigram(pieces, special, roles["unk_token"])
  template = "[CLS] $A [SEP]" if style == "bert" else "$A </s>"
  backend.post_processor = processors.TemplateProcessing(
    single=template,
    special_tokens=[
      (token, backend.token_to_id(token))
      for token in template.split()
      if token != "$A"
    ],
  )
  return Tokenizer(backend, roles)


def _make_unigram(
  pieces: Mapping[str, int], special: Sequence[str], unknown: str
) -> tokenizers.Tokenizer:
  total = math.log(sum(pieces.values()) or 1)
  vocab = [(token, _UNKNOWN_SCORE) for token in special]
  # Few digits, so that they read back from JSON as they are.
  vocab += [(p, round(math.log(n) - total, 6)) for p, n in pieces.items()]
  backend = tokenizers.Tokenizer(
    models.Unigram(vocab, unk_id=special.index(unknown))
  )
  backend.add_special_tokens(list(special))
  backend.normalizer = normalizers.Sequence(
    [
      normalizers.NFKC(),
      normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
      normalizers.Strip(),
    ]
  )
  backend.pre_tokenizer = pre_tokenizers.Metaspace()
  backend.decoder = decoders.Metaspace()
  return backend


def _count_substrings(words: Mapping[str, int]) -> collections.Counter[str]:
  counts = collections.Counter()
  for word, n in words.items():
    for start in range(len(word)):
      for end in range(start + 1, min(len(word), start + _MAX_PIECE) + 1):
        counts[word[start:end]] += n
  return counts


def _count_pieces(
  backend: tokenizers.Tokenizer, words: Mapping[str, int]
) -> collections.Counter[str]:
  """Counts pieces in the likeliest cut of each word (a hard EM step)."""
  counts = collections.Counter(dict.fromkeys("".join(words), 0))
  encodings = backend.encode_batch(
    list(words), is_pretokenized=False, add_special_tokens=False
  )
  for encoding, n in zip(encodings, words.values(), strict=True):
    for piece in encoding.tokens:
      counts[piece] += n
  return counts


def _prune(counts: Mapping[str, int], size: int) -> dict[str, int]:
  """Keeps all characters, and the most frequent longer pieces up to `size`."""
  alphabet = sorted(piece for piece in counts if len(piece) == 1)
  longer = sorted(
    (piece for piece, n in counts.items() if len(piece) > 1 and n > 1),
    key=lambda piece: (-counts[piece], piece),
  )
  kept = alphabet + longer[: max(size - len(alphabet), 0)]
  return {piece: max(counts[piece], 1) for piece in kept}
