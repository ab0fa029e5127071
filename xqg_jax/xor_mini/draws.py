"""Reproducible random draws, alike on any machine and library version.

Everything comes from BLAKE2 of a written key and integer arithmetic, because
the streams of `random` and NumPy may change with their versions.
"""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

_DIGEST_BITS = 512
_MASK = 2**64 - 1
_ROUNDS = 4


def _hash(*key: object) -> int:
  text = "/".join(map(str, key))
  return int.from_bytes(hashlib.blake2b(text.encode()).digest(), "big")


class Draws:
  """A stream of random choices that belongs to one key.

  >>> draws, again = Draws("seed", 7), Draws("seed", 7)
  >>> draws.shuffled("abcdef") == again.shuffled("abcdef")
  True
  """

  def __init__(self, *key: object):
    self._key = key
    self._block = 0
    self._refill()

  def _refill(self) -> None:
    self._bits = _hash(*self._key, self._block)
    self._room = 2**_DIGEST_BITS
    self._block += 1

  def below(self, limit: int) -> int:
    """An integer in [0, limit), for limits below 2**64."""
    # 64 bits of slack keep the modulo bias under 2**-64.
    if self._room >> 64 < limit:
      self._refill()
    self._bits, value = divmod(self._bits, limit)
    self._room //= limit
    return value

  def between(self, low: int, high: int) -> int:
    """An integer in [low, high]."""
    return low + self.below(high - low + 1)

  def choice(self, items: Sequence[T]) -> T:
    """One of the items."""
    return items[self.below(len(items))]

  def shuffled(self, items: Sequence[T]) -> list[T]:
    """The items in random order (Fisher-Yates)."""
    items = list(items)
    for last in range(len(items) - 1, 0, -1):
      other = self.below(last + 1)
      items[last], items[other] = items[other], items[last]
    return items


class Permutation:
  """A random permutation of range(size) that needs no table.

  A Feistel network over the next even number of bits; values outside are
  walked on until they fall inside.

  >>> shuffle = Permutation(5, "key")
  >>> sorted(shuffle(i) for i in range(5))
  [0, 1, 2, 3, 4]
  """

  def __init__(self, size: int, *key: object):
    self._size = size
    self._half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    self._mask = 2**self._half - 1
    # Odd multipliers, so that every bit of a half reaches the high bits.
    self._keys = tuple(
      (_hash(*key, round_) & _MASK, _hash(*key, round_, "times") & _MASK | 1)
      for round_ in range(_ROUNDS)
    )

  def __len__(self) -> int:
    return self._size

  def __call__(self, index: int) -> int:
    """Where `index` goes."""
    if not 0 <= index < self._size:
      raise IndexError(f"{index} is not in range({self._size})")
    index = self._mix(index)
    while index >= self._size:
      index = self._mix(index)
    return index

  def _mix(self, index: int) -> int:
    left, right = index >> self._half, index & self._mask
    for plus, times in self._keys:
      mixed = (((right ^ plus) * times) & _MASK) >> 32
      left, right = right, left ^ (mixed & self._mask)
    return (left << self._half) | right
