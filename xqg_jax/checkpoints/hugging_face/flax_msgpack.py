"""Flax msgpack files as memory maps: the place of each array.

Flax itself reads the whole file into memory first. Only what its files hold is
known here: maps with string keys, scalars, and arrays, each an extension of
type 1 that holds (shape, dtype's name, bytes); arrays over a gigabyte come as
a map of flat chunks. https://github.com/msgpack/msgpack/blob/master/spec.md
"""

import math
import mmap
import pathlib
import struct
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

_ARRAY = 1
_CHUNKED = "__msgpack_chunked_array__"

# First byte -> (size of the length that follows it, in bytes).
_STRINGS = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_BINARIES = {0xC4: 1, 0xC5: 2, 0xC6: 4}
_EXTENSIONS = {0xC7: 1, 0xC8: 2, 0xC9: 4}
_LISTS = {0xDC: 2, 0xDD: 4}
_MAPS = {0xDE: 2, 0xDF: 4}
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_NUMBERS = {
  0xCA: ">f",
  0xCB: ">d",
  0xCC: ">B",
  0xCD: ">H",
  0xCE: ">I",
  0xCF: ">Q",
  0xD0: ">b",
  0xD1: ">h",
  0xD2: ">i",
  0xD3: ">q",
}


Keys = tuple[str, ...]


class _Place(NamedTuple):
  """Where an array's bytes lie in the file."""

  shape: tuple[int, ...]
  dtype: np.dtype
  start: int


class _Reader:
  """Walks over a mapped file; arrays are passed over, not read."""

  def __init__(self, data: mmap.mmap | bytes, start: int = 0):
    self._data, self._at = data, start

  def read(self) -> Any:
    """The next object: a dict, list, scalar, `_Place` or bytes' start."""
    first = self._unsigned(1)
    if first <= 0x7F or first >= 0xE0:
      return first if first <= 0x7F else first - 0x100
    if first in _CONSTANTS:
      return _CONSTANTS[first]
    if first in _NUMBERS:
      form = _NUMBERS[first]
      return struct.unpack(form, self._take(struct.calcsize(form)))[0]
    if 0xA0 <= first <= 0xBF or first in _STRINGS:
      return self._take(self._length(first, _STRINGS, 0x1F)).decode()
    if first in _BINARIES:
      return self._pass_over(self._unsigned(_BINARIES[first]))
    if 0x90 <= first <= 0x9F or first in _LISTS:
      return [self.read() for _ in range(self._length(first, _LISTS, 0x0F))]
    if 0x80 <= first <= 0x8F or first in _MAPS:
      size = self._length(first, _MAPS, 0x0F)
      return {self.read(): self.read() for _ in range(size)}
    return self._extension(first)

  def _extension(self, first: int) -> _Place | None:
    if 0xD4 <= first <= 0xD8:
      size = 1 << (first - 0xD4)
    elif first in _EXTENSIONS:
      size = self._unsigned(_EXTENSIONS[first])
    else:
      raise ValueError(
        f"byte {first:#x} at {self._at - 1} is not the start of an object"
      )
    if self._unsigned(1) != _ARRAY:
      self._pass_over(size)  # a scalar: no parameter
      return None
    shape, dtype, start = self.read()
    place = _Place(tuple(shape), _dtype(dtype), start)
    if start + math.prod(shape) * place.dtype.itemsize != self._at:
      raise ValueError(f"the array at {start} is not as long as its shape says")
    return place

  def _length(self, first: int, sizes: dict[int, int], mask: int) -> int:
    return self._unsigned(sizes[first]) if first in sizes else first & mask

  def _unsigned(self, size: int) -> int:
    return int.from_bytes(self._take(size), "big")

  def _take(self, size: int) -> bytes:
    start = self._pass_over(size)
    return self._data[start : start + size]

  def _pass_over(self, size: int) -> int:
    start, self._at = self._at, self._at + size
    if self._at > len(self._data):
      raise ValueError(f"the file ends at byte {len(self._data)}, too early")
    return start


def _dtype(name: str) -> np.dtype:
  return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def map_arrays(
  path: pathlib.Path,
) -> dict[Keys, Callable[[], np.ndarray]]:
  """Finds the arrays of a file.

  Returns:
    For the keys that lead to each array, a function that maps it; one that
    was stored in chunks is joined in an unnamed temporary file first.

  Raises:
    ValueError: not Flax msgpack, or cut off.
  """
  with path.open("rb") as file:
    data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
  tree = _Reader(data).read()
  if not isinstance(tree, dict):
    raise ValueError("it holds no map")
  return {
    keys: _mapper(path, found)
    for keys, found in _flatten(tree)
    if isinstance(found, _Place | dict)
  }


def _flatten(tree: dict[str, Any], keys: Keys = ()) -> Iterator[tuple]:
  for key, value in tree.items():
    is_branch = isinstance(value, dict) and _CHUNKED not in value
    if is_branch:
      yield from _flatten(value, (*keys, key))
    else:
      yield (*keys, key), value


def _mapper(
  path: pathlib.Path, found: _Place | dict[str, Any]
) -> Callable[[], np.ndarray]:
  if isinstance(found, _Place):
    return lambda: _map(path, found)

  def join() -> np.ndarray:
    shape, chunks = (_in_order(found[key]) for key in ("shape", "chunks"))
    with tempfile.TemporaryFile() as file:
      for chunk in chunks:
        file.write(_map(path, chunk).view(np.uint8).data)
      file.flush()
      return np.memmap(file, chunks[0].dtype, "r", shape=tuple(shape))

  return join


def _in_order(numbered: dict[str, Any]) -> list[Any]:
  """The values of Flax's tuples, which are maps from "0", "1", ..."""
  return [numbered[str(index)] for index in range(len(numbered))]


def _map(path: pathlib.Path, place: _Place) -> np.ndarray:
  size = math.prod(place.shape) * place.dtype.itemsize
  if not size:
    return np.zeros(place.shape, place.dtype)
  mapped = np.memmap(path, np.uint8, "r", place.start, (size,))
  return mapped.view(np.ndarray).view(place.dtype).reshape(place.shape)
