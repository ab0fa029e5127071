"""Tensors of Hugging Face files, read one by one from memory maps.

safetensors and PyTorch files, single or sharded, and Flax msgpack, all under
the names that safetensors files use.
"""

import functools
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import TypedDict

import ml_dtypes
import numpy as np

from xqg_jax.checkpoints.hugging_face.flax_msgpack import map_arrays
from xqg_jax.errors import InputError
from xqg_jax.io.files import atomic_path, read_json
from xqg_jax.io.typed_json import PathText

SAFETENSORS_FILE = "model.safetensors"
MSGPACK_FILE = "flax_model.msgpack"
TORCH_FILE = "pytorch_model.bin"

_DTYPES = {
  "F64": np.dtype("<f8"),
  "F32": np.dtype("<f4"),
  "F16": np.dtype("<f2"),
  "BF16": np.dtype(ml_dtypes.bfloat16),
  "I64": np.dtype("<i8"),
  "I32": np.dtype("<i4"),
  "U8": np.dtype("u1"),
  "BOOL": np.dtype("?"),
}
# Values looked at together in the search for NaN.
_CHECKED_VALUES = 2**22
_MEND = "download or copy the file again"


class HfTensors(Mapping[str, np.ndarray]):
  """Tensors by name, each read from its file when asked for.

  Attributes:
    where: the file or index that the names come from, for messages.
  """

  def __init__(
    self,
    where: pathlib.Path,
    readers: Mapping[str, tuple[pathlib.Path, Callable[[], np.ndarray]]],
  ):
    """Takes, for every name, its file and a function that reads it."""
    self.where = where
    self._readers = readers

  def __getitem__(self, name: str) -> np.ndarray:
    """Reads a tensor in its stored dtype and checks that it is finite."""
    path, read = self._readers[name]
    value = read()
    if not _is_finite(value):
      raise InputError(
        f"tensor {name} has values that are NaN or infinite",
        where=path,
        mend="take an undamaged checkpoint",
      )
    return value

  def __iter__(self) -> Iterator[str]:
    return iter(self._readers)

  def __len__(self) -> int:
    return len(self._readers)


def _is_finite(value: np.ndarray) -> bool:
  """Looks at a large tensor in parts, so as not to double its memory."""
  if value.dtype.kind in "biu":
    return True
  value = np.atleast_1d(value)
  rows = max(1, _CHECKED_VALUES * len(value) // max(1, value.size))
  parts = (value[i : i + rows] for i in range(0, len(value), rows))
  return all(np.isfinite(part).all() for part in parts)


def find_hf_weights(folder: str | os.PathLike) -> pathlib.Path | None:
  """The weights that `read_hf_tensors` would read, or None."""
  names = (
    SAFETENSORS_FILE,
    f"{SAFETENSORS_FILE}.index.json",
    MSGPACK_FILE,
    f"{MSGPACK_FILE}.index.json",
    TORCH_FILE,
    f"{TORCH_FILE}.index.json",
  )
  paths = (pathlib.Path(folder) / name for name in names)
  return next((path for path in paths if path.exists()), None)


def read_hf_tensors(folder: str | os.PathLike) -> HfTensors:
  """Opens the weights of a Hugging Face folder; reads only their headers.

  safetensors come before Flax msgpack, and that before PyTorch files.

  Raises:
    InputError: no weights, or a damaged file; later, when a tensor is asked
      for, also that it holds NaN or infinity.
  """
  path = find_hf_weights(folder)
  if path is None:
    raise InputError(
      f"no weights ({SAFETENSORS_FILE}, {MSGPACK_FILE} or {TORCH_FILE})",
      where=folder,
      mend="give the folder of a downloaded model",
    )
  if path.name.endswith(".index.json"):
    return HfTensors(path, _read_shards(path))
  return HfTensors(path, _reader_of(path)(path))


def _reader_of(path: pathlib.Path) -> Callable[[pathlib.Path], dict]:
  if path.suffix == ".safetensors":
    return _read_safetensors
  return _read_msgpack if path.suffix == ".msgpack" else _read_torch


class WeightIndex(TypedDict):
  """Contents of an index of weights: which file has which tensor."""

  weight_map: dict[str, PathText]


def _read_shards(index: pathlib.Path) -> dict:
  """Joins the files of an index, each tensor from the file it names."""
  readers, files = {}, {}
  weight_map = read_json(index, WeightIndex)["weight_map"]
  for name, file in weight_map.items():
    if file not in files:
      path = index.parent / file
      if not path.exists():
        raise InputError("no such file", where=path, mend=_MEND)
      files[file] = _reader_of(path)(path)
    if file.endswith(".msgpack"):
      name = _torch_name(tuple(name.split("/")))
    if name not in files[file]:
      raise InputError(
        f"no tensor {name}", where=index.parent / file, mend=_MEND
      )
    readers[name] = files[file][name]
  return readers


# -------------------------------------------------------------- safetensors


def _read_safetensors(path: pathlib.Path) -> dict:
  """Maps the tensors; the library reads and checks the header.

  Its own arrays are copies: one more of the largest tensor in memory.
  """
  from safetensors import SafetensorError, safe_open

  readers = {}
  try:
    # Opened first: of a file that may not be read the library says wrongly
    # that there is none.
    with path.open("rb") as file, safe_open(path, "numpy") as header:
      # The format has no gaps between tensors, and the library checks that.
      offset = 8 + int.from_bytes(file.read(8), "little")
      for name in header.offset_keys():
        entry = header.get_slice(name)
        dtype, shape = entry.get_dtype(), tuple(entry.get_shape())
        if dtype not in _DTYPES:
          raise InputError(
            f"tensor {name} is stored as {dtype}",
            where=path,
            mend=f"store it as one of {', '.join(_DTYPES)}",
          )
        read = functools.partial(
          _map_tensor, path, _DTYPES[dtype], offset, shape
        )
        readers[name] = (path, read)
        offset += math.prod(shape) * _DTYPES[dtype].itemsize
  except PermissionError:
    raise
  except (SafetensorError, OSError) as error:
    raise InputError(
      f"cut off, or not a safetensors file ({error})", where=path, mend=_MEND
    ) from None
  return readers


def _map_tensor(
  path: pathlib.Path, dtype: np.dtype, offset: int, shape: tuple[int, ...]
) -> np.ndarray:
  if 0 in shape:
    return np.zeros(shape, dtype)
  size = math.prod(shape) * dtype.itemsize
  mapped = np.memmap(path, np.uint8, "r", offset, (size,))
  return mapped.view(np.ndarray).view(dtype).reshape(shape)


def write_safetensors(
  path: str | os.PathLike, tensors: Mapping[str, np.ndarray]
) -> None:
  """Writes a safetensors file atomically, marked as transformers wants it."""
  from safetensors.numpy import save_file

  with atomic_path(path) as partial:
    save_file(dict(tensors), partial, metadata={"format": "pt"})


# ----------------------------------------------------- Flax and PyTorch files


def _read_msgpack(path: pathlib.Path) -> dict:
  """Flax's nested names become torch's: kernels are transposed."""
  try:
    arrays = map_arrays(path)
  except ValueError as error:
    raise InputError(
      f"not Flax msgpack ({error})", where=path, mend=_MEND
    ) from None
  return {
    _torch_name(keys): (path, functools.partial(_torch_layout, keys[-1], read))
    for keys, read in arrays.items()
  }


def _torch_name(keys: tuple[str, ...]) -> str:
  last = keys[-1]
  is_weight = last in ("kernel", "embedding", "scale")
  return ".".join((*keys[:-1], "weight" if is_weight else last))


def _torch_layout(last: str, read: Callable[[], np.ndarray]) -> np.ndarray:
  return read().T if last == "kernel" else read()


def _read_torch(path: pathlib.Path) -> dict:
  try:
    import torch
  except ImportError:
    raise InputError(
      "reading a PyTorch file needs torch",
      where=path,
      mend="run `pip install 'xqg_jax[torch]'`, or convert the file to "
      f"{SAFETENSORS_FILE}",
    ) from None
  try:
    state = torch.load(
      path, map_location="cpu", weights_only=True, mmap=_is_zip(path)
    )
    if not all(isinstance(value, torch.Tensor) for value in state.values()):
      raise ValueError("it holds other objects")
  except Exception as error:  # torch raises a dozen kinds.
    # What follows the first sentence is advice for programmers.
    reason = str(error).partition(". ")[0] or type(error).__name__
    raise InputError(
      f"cut off, or not a PyTorch file of plain tensors ({reason})",
      where=path,
      mend=_MEND,
    ) from None

  def read(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach()
    # numpy lacks bfloat16, so its bits pass through as integers.
    if tensor.dtype is torch.bfloat16:
      return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()

  return {
    name: (path, functools.partial(read, tensor))
    for name, tensor in state.items()
  }


def _is_zip(path: pathlib.Path) -> bool:
  """Whether torch can map a file; before 1.6 it wrote plain pickles."""
  with path.open("rb") as file:
    return file.read(2) == b"PK"
