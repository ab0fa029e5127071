"""Layouts of T5X checkpoints: msgpack with zarr folders, and Orbax.

- classic, as the public mT5 checkpoints: `checkpoint_<step>/checkpoint` is
  msgpack of the tree {version, optimizer: {target, state}} whose large arrays
  are specifications of zarr arrays beside it, `target.encoder...`. Their
  key-value stores name the machine that wrote them (gfile, gcs) and are
  replaced by the folder at hand.
- Orbax, as T5X writes today: `checkpoint_<step>/state` holds the tree
  {target, state} under the same dotted names, in one OCDBT database.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NotRequired, TypedDict

import flax.serialization
import numpy as np
import tensorstore as ts
from flax import traverse_util
from jaxtyping import Float

from xqg_jax.errors import InputError
from xqg_jax.io.locations import CONTEXT, Location
from xqg_jax.io.typed_json import decode_json

CLASSIC_FILE = "checkpoint"
ORBAX_ITEM = "state"
ORBAX_FILE = "_METADATA"
_MEND = "copy the checkpoint again"
# Beside a block only so much of it is held a second time, as stored.
_READ_BYTES = 32 * 2**20


def is_t5x_step(folder: Location) -> bool:
  """Whether a folder `checkpoint_<step>` was written by T5X."""
  names = folder.list_names()
  # Ours has an item `state` too, but always `params` beside it.
  is_orbax = ORBAX_ITEM in names and "params" not in names
  # So did TensorFlow name a file, in folders of Hugging Face's too.
  is_classic = CLASSIC_FILE in names and "config.json" not in names
  return is_classic or (
    is_orbax and ORBAX_FILE in (folder / ORBAX_ITEM).list_names()
  )


class T5xTensor:
  """A stored tensor, of which any block can be read by itself.

  Attributes:
    name: its path in the tree, for messages.
    shape: its shape.
  """

  def __init__(
    self, name: str, where: Location, source: ts.TensorStore | np.ndarray
  ):
    """Takes an open array, or one that stood in the msgpack file."""
    self.name, self._where, self._source = name, where, source
    self.shape = tuple(source.shape)
    self.ndim = len(self.shape)

  def __getitem__(self, index: tuple[slice, ...]) -> Float[np.ndarray, "..."]:
    """Reads a block as float32.

    Raises:
      InputError: it cannot be read, or holds values that are not finite.
    """
    bounds = [
      slice(*part.indices(size))
      for part, size in zip(index, self.shape, strict=True)
    ]
    block = np.empty([b.stop - b.start for b in bounds], np.float32)
    for rows in self._cut(bounds):
      part = self._read(rows)
      if not np.isfinite(part).all():
        raise self._error(
          "has values that are NaN or infinite", "take an undamaged checkpoint"
        )
      if block.ndim:
        start = rows[0].start - bounds[0].start
        block[start : start + len(part)] = part
      else:
        block[...] = part
    return block

  def read(self) -> np.ndarray:
    """The whole tensor as it is stored."""
    return self._read(tuple(slice(0, size) for size in self.shape))

  def _cut(self, bounds: list[slice]) -> Iterator[tuple[slice, ...]]:
    """Cuts a block along its first axis, at the borders of stored chunks."""
    if not bounds:
      yield ()
      return
    first, *others = bounds
    chunk = 1
    if isinstance(self._source, ts.TensorStore):
      shape = self._source.chunk_layout.read_chunk.shape or (None,)
      chunk = shape[0] or 1
    row_bytes = 4 * int(np.prod([b.stop - b.start for b in others]))
    num_chunks = max(1, _READ_BYTES // max(1, row_bytes * chunk))
    start = first.start
    while start < first.stop:
      stop = min(first.stop, (start // chunk + num_chunks) * chunk)
      yield (slice(start, stop), *others)
      start = stop

  def _read(self, index: tuple[slice, ...]) -> np.ndarray:
    try:
      return np.asarray(self._source[index])
    except Exception as error:  # TensorStore raises many kinds.
      line = str(error).splitlines()[0]
      raise self._error(f"cannot be read ({line})", _MEND) from None

  def _error(self, what: str, mend: str) -> InputError:
    return InputError(
      f"tensor {self.name} {what}", where=self._where, mend=mend
    )


@dataclasses.dataclass(frozen=True)
class T5xCheckpoint:
  """The tree of a T5X checkpoint, nothing of it read yet.

  Attributes:
    where: the folder `checkpoint_<step>`.
    arrays: by path, such as `target/encoder/encoder_norm/scale`: how to open
      an array, or the array itself where it stood in the msgpack file.
  """

  where: Location
  arrays: Mapping[str, dict[str, Any] | np.ndarray]

  def open(self, prefix: str) -> dict[str, T5xTensor]:
    """Opens all tensors below a path, all at once; names lose the prefix.

    Raises:
      InputError: one of them is missing or damaged.
    """
    opening = {
      path: ts.open(spec, context=CONTEXT, open=True, read=True)
      if isinstance(spec, dict)
      else spec
      for path, spec in self.arrays.items()
      if path.startswith(prefix)
    }
    tensors = {}
    for path, source in opening.items():
      name = path.removeprefix(prefix)
      if isinstance(source, ts.Future):
        source = self._wait(path, source)
      tensors[name] = T5xTensor(path, self.where, source)
    return tensors

  def _wait(self, path: str, opening: ts.Future) -> ts.TensorStore:
    try:
      found = opening.result()
    except Exception as error:  # TensorStore raises many kinds.
      line = str(error).splitlines()[0]
      raise InputError(
        f"tensor {path} cannot be opened ({line})",
        where=self.where,
        mend=_MEND,
      ) from None
    if found.dtype.name == "uint16":
      raise InputError(
        f"tensor {path} is stored as uint16, as T5X did before June 2021",
        where=self.where,
        mend="restore and save it with a newer T5X",
      )
    return found


def open_t5x_step(folder: Location) -> T5xCheckpoint:
  """Reads which tensors a folder `checkpoint_<step>` has.

  Raises:
    InputError: neither layout, or a damaged one.
  """
  content = (folder / CLASSIC_FILE).read_bytes()
  if content is not None:
    return T5xCheckpoint(folder, _read_classic(folder, content))
  item = folder / ORBAX_ITEM
  content = (item / ORBAX_FILE).read_bytes()
  if content is None:
    raise InputError(
      "no T5X checkpoint",
      where=folder,
      mend="give its folder checkpoint_<step>",
    )
  return T5xCheckpoint(folder, _read_orbax(item, content))


def _read_classic(
  folder: Location, content: bytes
) -> dict[str, dict[str, Any] | np.ndarray]:
  where = folder / CLASSIC_FILE
  if content.startswith(b"model_checkpoint_path"):
    raise InputError(
      "a TensorFlow checkpoint, not one of T5X",
      where=where,
      mend="convert it with T5X's t5x/scripts/convert_tf_checkpoint.py",
    )
  try:
    tree = flax.serialization.msgpack_restore(content)["optimizer"]
    flat = traverse_util.flatten_dict(
      tree, sep="/", is_leaf=lambda _, node: "driver" in node
    )
  except Exception as error:  # msgpack has no exception of its own.
    raise InputError(
      f"not a T5X checkpoint ({type(error).__name__}: {error})",
      where=where,
      mend=_MEND,
    ) from None
  return {
    path: _zarr_spec((folder / _array_folder(leaf)).kvstore())
    if isinstance(leaf, dict)
    else np.asarray(leaf)
    for path, leaf in flat.items()
  }


def _array_folder(spec: Mapping[str, Any]) -> str:
  """The folder that a stored specification means, whatever its store."""
  # TensorStore 0.1.13 and older kept the path beside the store.
  path = spec.get("path") or spec["kvstore"]["path"]
  return path.rstrip("/").rpartition("/")[2]


def _zarr_spec(kvstore: dict[str, Any], driver: str = "zarr") -> dict[str, Any]:
  # A chunk that was not copied is an error, not zeros.
  return {
    "driver": driver,
    "kvstore": kvstore,
    "fill_missing_data_reads": False,
  }


class OrbaxKey(TypedDict):
  """A step on the path of an array."""

  key: str


class OrbaxValue(TypedDict):
  """What a leaf is."""

  value_type: str


class OrbaxEntry(TypedDict):
  """A leaf of the tree."""

  key_metadata: list[OrbaxKey]
  value_metadata: OrbaxValue


class OrbaxMetadata(TypedDict):
  """What is read of Orbax's `_METADATA`."""

  tree_metadata: dict[str, OrbaxEntry]
  use_zarr3: NotRequired[bool | None]
  use_ocdbt: NotRequired[bool | None]


def _read_orbax(item: Location, content: bytes) -> dict[str, dict[str, Any]]:
  metadata = decode_json(
    content, OrbaxMetadata, where=item / ORBAX_FILE, mend=_MEND
  )
  paths = [
    [part["key"] for part in entry["key_metadata"]]
    for entry in metadata["tree_metadata"].values()
    if entry["value_metadata"]["value_type"] not in ("None", "Dict")
  ]
  driver = "zarr3" if metadata.get("use_zarr3") else "zarr"
  stores = {}
  for path in paths:
    name = ".".join(path)
    kvstore = (item / name).kvstore()
    if metadata.get("use_ocdbt", True):
      kvstore = {"driver": "ocdbt", "base": item.kvstore(), "path": f"{name}/"}
    stores["/".join(path)] = _zarr_spec(kvstore, driver)
  return stores
