"""Remembers which ids came by, in little memory when they are numbers."""

_MAX_BITS = 2**28  # ids up to here are remembered in at most 32 MiB


class SeenIds:
  """Remembers ids; numbers, as the public corpora have them, take a bit each.

  >>> seen = SeenIds()
  >>> [seen.add(passage_id) for passage_id in ("7", "x", "07", "7", "x")]
  [True, True, True, False, False]
  """

  def __init__(self):
    self._bits = bytearray()
    self._others: set[str] = set()

  def add(self, passage_id: str) -> bool:
    """Whether the id is new."""
    number = int(passage_id) if passage_id.isdecimal() else _MAX_BITS
    if number >= _MAX_BITS or str(number) != passage_id:
      is_new = passage_id not in self._others
      self._others.add(passage_id)
      return is_new
    byte, bit = number >> 3, 1 << (number & 7)
    if byte >= len(self._bits):
      self._bits.extend(bytes(byte + 1 - len(self._bits)))
    is_new = not self._bits[byte] & bit
    self._bits[byte] |= bit
    return is_new
