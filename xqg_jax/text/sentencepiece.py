"""SentencePiece models, the tokenizers of T5X, as fast tokenizers."""

import struct
from collections.abc import Iterator, Mapping

import tokenizers
from tokenizers import (
  decoders,
  models,
  normalizers,
  pre_tokenizers,
  processors,
)

from xqg_jax.errors import InputError
from xqg_jax.text.tokenizer import Tokenizer

# Field numbers of sentencepiece_model.proto.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_TEXT, _SCORE, _TYPE = 1, 2, 3
_MODEL_TYPE, _UNK_ID, _EOS_ID, _PAD_ID = 3, 40, 42, 43
_CHARSMAP, _REMOVE_EXTRA_SPACES = 2, 4
_CONTROL, _USER_DEFINED = 3, 4
_UNIGRAM = 1

# What bytes of another kind end in.
_DAMAGES = (
  ValueError,
  KeyError,
  IndexError,
  TypeError,
  OverflowError,
  struct.error,
)

Field = int | bytes


def read_sentencepiece(content: bytes, *, where: object = None) -> Tokenizer:
  """Makes a tokenizer that gives the ids of a SentencePiece model.

  Args:
    content: of a unigram model's file, `spiece.model` or
      `sentencepiece.model`.
    where: its path, for messages.

  Returns:
    The tokenizer; like T5's it ends every text with the model's `</s>`.

  Raises:
    InputError: no such model, or one of another kind than unigram.
  """
  try:
    model = _Model(content)
    backend = tokenizers.Tokenizer(
      models.Unigram(model.vocab, unk_id=model.unk_id)
    )
  except _DAMAGES:
    raise InputError(
      "not a SentencePiece model", where=where, mend="copy the file again"
    ) from None
  if not model.is_unigram:
    raise InputError(
      "a SentencePiece model of another kind than unigram",
      where=where,
      mend="give the model's tokenizer.json",
    )
  backend.add_tokens(model.tokens)
  _set_pipeline(backend, model)
  _end_texts(backend, model.roles.get("eos_token", "</s>"))
  return Tokenizer(backend, model.roles)


class _Model:
  """What a model's file says.

  Attributes:
    vocab: each piece and its score.
    tokens: pieces that are never split.
    unk_id: the piece of what no other piece has.
    is_unigram: whether it is such a model.
    charsmap: the compiled rules of normalization.
    joins_spaces: whether spaces at the ends and double ones go.
    roles: pieces by role.
  """

  def __init__(self, content: bytes):
    fields = list(_parse(content))
    trainer, normalizer = (
      dict(_parse(_get_bytes(dict(fields), number)))
      for number in (_TRAINER, _NORMALIZER)
    )
    pieces = [
      dict(_parse(_check_bytes(value)))
      for number, value in fields
      if number == _PIECES
    ]
    texts = [_get_bytes(piece, _TEXT).decode() for piece in pieces]
    scores = [_to_float(_get_bytes(piece, _SCORE)) for piece in pieces]
    self.vocab = list(zip(texts, scores, strict=True))
    kinds = [_get_int(piece, _TYPE, 1) for piece in pieces]
    self.tokens = [
      tokenizers.AddedToken(text, normalized=False, special=kind == _CONTROL)
      for text, kind in zip(texts, kinds, strict=True)
      if kind in (_CONTROL, _USER_DEFINED)
    ]
    self.unk_id = _get_int(trainer, _UNK_ID, 0)
    self.is_unigram = _get_int(trainer, _MODEL_TYPE, _UNIGRAM) == _UNIGRAM
    self.charsmap = _get_bytes(normalizer, _CHARSMAP, b"")
    self.joins_spaces = bool(_get_int(normalizer, _REMOVE_EXTRA_SPACES, 1))
    ids = {
      role: _to_signed(_get_int(trainer, number, -1))
      for role, number in (("pad_token", _PAD_ID), ("eos_token", _EOS_ID))
    }
    self.roles = {role: texts[id_] for role, id_ in ids.items() if id_ >= 0}
    _ = texts[self.unk_id]


def _parse(message: bytes) -> Iterator[tuple[int, Field]]:
  """Yields (number, value) of a protobuf message's fields."""
  position = 0

  def varint() -> int:
    nonlocal position
    value = shift = 0
    while True:
      byte = message[position]
      position += 1
      value |= (byte & 0x7F) << shift
      shift += 7
      if byte < 0x80:
        return value

  while position < len(message):
    key = varint()
    number, kind = key >> 3, key & 7
    if kind == 0:
      yield number, varint()
      continue
    if kind not in (1, 2, 5) or not number:
      raise ValueError("not protobuf")
    size = varint() if kind == 2 else 8 if kind == 1 else 4
    if position + size > len(message):
      raise ValueError("cut off")
    yield number, message[position : position + size]
    position += size


def _get_bytes(
  fields: Mapping[int, Field], number: int, default: bytes | None = None
) -> bytes:
  return _check_bytes(fields.get(number, default))


def _check_bytes(value: Field | None) -> bytes:
  if not isinstance(value, bytes):
    raise TypeError("no bytes")
  return value


def _get_int(fields: Mapping[int, Field], number: int, default: int) -> int:
  value = fields.get(number, default)
  if not isinstance(value, int):
    raise TypeError("no number")
  return value


def _to_float(value: bytes) -> float:
  return struct.unpack("<f", value)[0]


def _to_signed(value: int) -> int:
  """Protobuf stores -1, SentencePiece's "none", as 2 ** 64 - 1."""
  return value - 2**64 if value >= 2**63 else value


def _set_pipeline(backend: tokenizers.Tokenizer, model: _Model) -> None:
  steps = []
  if model.charsmap:
    steps.append(normalizers.Precompiled(model.charsmap))
  if model.joins_spaces:
    # Spaces alone: a tab that no rule has changed is a character.
    steps.append(normalizers.Replace(tokenizers.Regex("^ +| +$"), ""))
    steps.append(normalizers.Replace(tokenizers.Regex(" {2,}"), " "))
  backend.normalizer = normalizers.Sequence(steps)
  backend.pre_tokenizer = pre_tokenizers.Metaspace()
  backend.decoder = decoders.Metaspace()


def _end_texts(backend: tokenizers.Tokenizer, eos: str) -> None:
  eos_id = backend.token_to_id(eos)
  if eos_id is not None:
    backend.post_processor = processors.TemplateProcessing(
      single=f"$A {eos}", special_tokens=[(eos, eos_id)]
    )
