"""SeqIO vocabularies: over a `tokenizer.json`, or mT5's SentencePiece."""

import functools
import os
import threading
from collections.abc import Iterable, Sequence
from typing import Any, NotRequired, TypedDict

import numpy as np
import seqio
import tensorflow as tf

from xqg_jax.errors import InputError
from xqg_jax.io.files import read_json
from xqg_jax.io.local_copies import copy_here
from xqg_jax.io.paths import Path, to_path
from xqg_jax.io.typed_json import Count
from xqg_jax.text.tokenizer import SETTINGS_FILE, Tokenizer, load_tokenizer

# Where T5X's checkpoints of mT5 find their vocabulary.
MT5_SENTENCEPIECE = (
  "gs://t5-data/vocabs/mc4.250000.100extra/sentencepiece.model"
)
SENTENCEPIECE_FILE = "spiece.model"

# Longer than any text; a tokenizer that is not asked to cut keeps all.
_NO_LIMIT = 2**30

# Different vocabularies hardly cut all of these alike.
_PROBES = (
  "Generate a Finnish question for this passage: Lake Como, 1,460 m² (2019)",
  "متى تأسست جامعة القاهرة؟",
  "ঢাকা বিশ্ববিদ্যালয় কবে প্রতিষ্ঠিত হয়?",
  "Missä Helsingin yliopiston kirjasto sijaitsee?",
  "東京大学はいつ設立されましたか？",
  "서울대학교는 언제 설립되었나요?",
  "Когда был основан Московский университет?",
  "ఆంధ్ర విశ్వవిద్యాలయం ఎప్పుడు స్థాపించబడింది?",
)


def load_vocabulary(
  path: Tokenizer | str | os.PathLike,
) -> seqio.Vocabulary:
  """The vocabulary of a model; its files are read when first needed.

  Args:
    path: a tokenizer; a `.model` file of SentencePiece, also on `gs://`; a
      folder with `spiece.model` (mT5, T5) or `tokenizer.json`; or the name of
      a model on the Hugging Face hub.

  Returns:
    `seqio.SentencePieceVocabulary` for SentencePiece models, as T5X uses it,
    else `HuggingFaceVocabulary`.
  """
  if isinstance(path, Tokenizer):
    return HuggingFaceVocabulary(path)
  name = os.fspath(path)
  if name.endswith(".model"):
    return seqio.SentencePieceVocabulary(name)
  folder = to_path(name)
  if (folder / SENTENCEPIECE_FILE).exists():
    return seqio.SentencePieceVocabulary(
      str(copy_here(folder / SENTENCEPIECE_FILE)),
      extra_ids=_read_extra_ids(folder),
    )
  return HuggingFaceVocabulary(path)


class _VocabularySettings(TypedDict):
  """What is read of a T5's `tokenizer_config.json`."""

  extra_ids: NotRequired[Count | None]


def _read_extra_ids(folder: Path) -> int:
  """Sentinels beyond the SentencePiece model: T5 has 100, mT5 none."""
  path = folder / SETTINGS_FILE
  if not path.exists():
    return 0
  return read_json(path, _VocabularySettings).get("extra_ids") or 0


def is_vocabulary_of(
  vocabulary: seqio.Vocabulary, tokenizer: Tokenizer
) -> bool:
  """Whether a task's token ids mean the same to a model's tokenizer.

  A SentencePiece model and a `tokenizer.json` are compared by the ids that
  they give to text in eight languages.
  """
  own = HuggingFaceVocabulary(tokenizer)
  if isinstance(vocabulary, HuggingFaceVocabulary):
    return vocabulary == own
  if (vocabulary.pad_id, vocabulary.eos_id) != (own.pad_id, own.eos_id):
    return False
  return all(
    list(vocabulary.encode(text)) == own.encode(text) for text in _PROBES
  )


def _load_tokenizer(source: str | os.PathLike) -> Tokenizer:
  """Loads a folder's tokenizer, or a hub model's without its weights."""
  if to_path(source).exists() or str(source).startswith((".", "/")):
    return load_tokenizer(source)
  import huggingface_hub
  from huggingface_hub import errors

  try:
    folder = huggingface_hub.snapshot_download(
      str(source), allow_patterns=["*.json", "*.txt", "*.model"]
    )
  except (OSError, ValueError, errors.HfHubHTTPError) as error:
    line = str(error).strip().splitlines()[0]
    raise InputError(
      f"not found locally or on the hub ({line})",
      where=source,
      mend="check the path or the name of the tokenizer",
    ) from None
  return load_tokenizer(folder)


class HuggingFaceVocabulary(seqio.Vocabulary):
  """Makes SeqIO tokenise exactly as the checkpoint's own tokenizer does.

  As SeqIO asks, `encode` leaves special tokens out: SeqIO appends the end of
  sequence of T5's kind itself. For models of BERT's kind
  `encode_with_special_tokens_tf` keeps them.

  The tokenizer is read when first needed, so that registering tasks is cheap.
  Two vocabularies are equal when their tokenizers have one fingerprint.
  """

  def __init__(self, tokenizer: Tokenizer | str | os.PathLike):
    """Wraps a tokenizer, the folder that holds one, or a hub model's."""
    self._source = tokenizer
    # One call at a time: SeqIO tokenises from several threads.
    self._lock = threading.Lock()
    super().__init__()

  @functools.cached_property
  def tokenizer(self) -> Tokenizer:
    """The tokenizer."""
    if isinstance(self._source, Tokenizer):
      return self._source
    return _load_tokenizer(self._source)

  @functools.cached_property
  def special_tokens(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids that stand before and after a text, as ([CLS]) and ([SEP])."""
    empty, full = self.encode_batch(["", "a"], add_special_tokens=True)
    num_before = 0
    while num_before < len(empty) and empty[num_before] == full[num_before]:
      num_before += 1
    ids = tuple(int(i) for i in empty)
    return ids[:num_before], ids[num_before:]

  @property
  def pad_id(self) -> int:
    """Id of padding, as the model was trained with; not always 0."""
    return self.tokenizer.pad_id

  @property
  def bos_id(self) -> int | None:
    """None: beginnings belong to `special_tokens`."""
    return None

  @property
  def eos_id(self) -> int | None:
    """Id that ends a sequence, or None."""
    return self.tokenizer.eos_id

  @property
  def unk_id(self) -> int | None:
    """None: ids beyond the vocabulary are dropped in decoding."""
    return None

  @property
  def _base_vocab_size(self) -> int:
    return self.tokenizer.vocab_size

  def encode_batch(
    self, texts: Sequence[str], *, add_special_tokens: bool = False
  ) -> list[np.ndarray]:
    """Tokenises several texts, whatever their length."""
    if not texts:
      return []
    with self._lock:
      rows = self.tokenizer.encode_batch(texts, max_length=_NO_LIMIT)
    if add_special_tokens:
      return rows
    before, after = map(len, self.special_tokens)
    return [row[before : len(row) - after] for row in rows]

  def _encode(self, s: str) -> list[int]:
    return self.encode_batch([s])[0].tolist()

  def _decode(self, ids: Iterable[int]) -> str:
    with self._lock:
      return self.tokenizer.decode_batch([list(ids)])[0]

  def _encode_tf(self, s: tf.Tensor) -> tf.Tensor | tf.RaggedTensor:
    return self._encode_texts(s, add_special_tokens=False)

  def encode_with_special_tokens_tf(
    self, s: tf.Tensor
  ) -> tf.Tensor | tf.RaggedTensor:
    """Tokenises a string or a vector of strings, with special tokens."""
    return self._encode_texts(s, add_special_tokens=True)

  def _encode_texts(
    self, s: tf.Tensor, *, add_special_tokens: bool
  ) -> tf.Tensor | tf.RaggedTensor:
    def encode(texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
      rows = self.encode_batch(
        [text.decode() for text in texts],
        add_special_tokens=add_special_tokens,
      )
      values = np.concatenate([np.zeros(0, np.int32), *rows])
      return values, np.array([len(row) for row in rows], np.int64)

    values, lengths = tf.numpy_function(
      encode, [tf.reshape(s, [-1])], (tf.int32, tf.int64), stateful=False
    )
    values.set_shape([None])
    lengths.set_shape([None])
    if s.shape.rank == 0:
      return values
    ragged: Any = tf.RaggedTensor  # the stubs lack its makers
    return ragged.from_row_lengths(values, lengths, validate=False)

  def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
    def decode(rows: np.ndarray) -> np.ndarray:
      flat = rows.reshape(-1, rows.shape[-1])
      texts = [self._decode(row.tolist()).encode() for row in flat]
      return np.array(texts, object).reshape(rows.shape[:-1])

    return tf.numpy_function(decode, [ids], tf.string, stateful=False)

  def __eq__(self, other: object) -> bool:
    if not isinstance(other, HuggingFaceVocabulary):
      return NotImplemented
    return self.tokenizer.fingerprint == other.tokenizer.fingerprint

  def __hash__(self) -> int:
    return hash(self.tokenizer.fingerprint)
