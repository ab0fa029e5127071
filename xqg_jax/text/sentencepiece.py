"""SentencePiece models, the tokenizers of T5X, as fast tokenizers."""

import struct
from collections.abc import Iterator

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
    fields = list(_parse(content))
    trainer, normalizer = (
      dict(_parse(dict(fields)[number])) for number in (_TRAINER, _NORMALIZER)
    )
    pieces = [
      dict(_parse(value)) for number, value in fields if number == _PIECES
    ]
    vocab = [(p[_TEXT].decode(), _to_float(p[_SCORE])) for p in pieces]
  except (ValueError, KeyError, IndexError, TypeError, struct.error):
    raise InputError(
      "not a SentencePiece model", where=where, mend="copy the file again"
    ) from None
  if trainer.get(_MODEL_TYPE, _UNIGRAM) != _UNIGRAM:
    raise InputError(
      "a SentencePiece model of another kind than unigram",
      where=where,
      mend="give the model's tokenizer.json",
    )
  backend = tokenizers.Tokenizer(
    models.Unigram(vocab, unk_id=trainer.get(_UNK_ID, 0))
  )
  _add_tokens(backend, pieces)
  _set_pipeline(backend, normalizer)
  roles = {
    role: vocab[_to_signed(trainer[number])][0]
    for role, number in (("pad_token", _PAD_ID), ("eos_token", _EOS_ID))
    if _to_signed(trainer.get(number, -1)) >= 0
  }
  _end_texts(backend, roles.get("eos_token", "</s>"))
  return Tokenizer(backend, roles)


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


def _to_float(value: Field) -> float:
  return struct.unpack("<f", value)[0]


def _to_signed(value: int) -> int:
  """Protobuf stores -1, SentencePiece's "none", as 2 ** 64 - 1."""
  return value - 2**64 if value >= 2**63 else value


def _add_tokens(
  backend: tokenizers.Tokenizer, pieces: list[dict[int, Field]]
) -> None:
  for piece in pieces:
    kind = piece.get(_TYPE)
    if kind in (_CONTROL, _USER_DEFINED):
      token = tokenizers.AddedToken(
        piece[_TEXT].decode(), normalized=False, special=kind == _CONTROL
      )
      backend.add_tokens([token])


def _set_pipeline(
  backend: tokenizers.Tokenizer, normalizer: dict[int, Field]
) -> None:
  steps = []
  if normalizer.get(_CHARSMAP):
    steps.append(normalizers.Precompiled(normalizer[_CHARSMAP]))
  if normalizer.get(_REMOVE_EXTRA_SPACES, 1):
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
