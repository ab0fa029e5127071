"""Training of a unigram tokenizer that gives the same bytes on every run."""

import collections
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import tokenizers
from tokenizers import (
  decoders,
  models,
  normalizers,
  pre_tokenizers,
  processors,
)

from xqg_jax.text.tokenizer import Tokenizer

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
