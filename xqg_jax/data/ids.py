"""Ids of passages and questions, and the columns of TREC files they stand in.

TREC's tools split a line at blanks of ASCII and nowhere else. Whatever they
would split, or not print, is refused where an id is first read, not hours
later when a run is written.
"""

import re

from xqg_jax.errors import InputError

# Blanks of ASCII, and control characters, which Python takes for blanks too.
_BROKEN = re.compile(r"[\x00-\x20\x7f]")
_MAX_BITS = 2**28  # ids up to here are remembered in at most 32 MiB
_BLANKS = re.compile(r"[ \t\n\r\f\v]+")


def check_id(name: str, kind: str, where: object) -> str:
  """Returns the id, which TREC files can hold.

  Args:
    name: the id.
    kind: of what it is, for the message.
    where: file and line, for the message.

  Raises:
    InputError: it is empty or holds a blank or a control character.

  >>> check_id("12-a", "passage", "p.tsv:1")
  '12-a'
  """
  if name and not _BROKEN.search(name):
    return name
  raise InputError(
    f"the {kind} id {name!r} is empty or has blanks in it",
    where=where,
    mend="write ids without blanks: TREC files could not hold this one",
  )


def split_columns(line: str) -> list[str]:
  r"""Splits a line of a TREC file at blanks, as TREC's own tools do.

  >>> split_columns("q1 0\td\u00a01  2\n")
  ['q1', '0', 'd\xa01', '2']
  """
  if line.isascii():  # several times as fast
    return line.split()
  return [column for column in _BLANKS.split(line) if column]


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
    is_short = len(passage_id) < 10 and passage_id.isdecimal()
    number = int(passage_id) if is_short else _MAX_BITS
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
