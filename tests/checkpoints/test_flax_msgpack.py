"""Mapped Flax msgpack files against what Flax itself restores."""

import flax.serialization
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from xqg_jax.checkpoints.hugging_face.flax_msgpack import map_arrays

RNG = np.random.default_rng(0)
TREE = {
  "encoder": {
    "kernel": RNG.normal(size=(300, 70)).astype(np.float32),
    "half": RNG.normal(size=(5, 3)).astype(ml_dtypes.bfloat16),
    "b" * 40: {"c" * 300: np.arange(3, dtype=np.int64)},
    "scalar": np.array(2.5, np.float32),
    "empty": np.zeros((0, 4), np.float16),
  },
  "x": {"y": {str(i): np.full(i + 1, i, np.int8) for i in range(20)}},
}


def _write(path, tree):
  path.write_bytes(flax.serialization.msgpack_serialize(tree))
  return path


def _assert_same(path):
  expected = flatten_dict(flax.serialization.msgpack_restore(path.read_bytes()))
  found = map_arrays(path)
  assert found.keys() == expected.keys()
  for keys, read in found.items():
    value = read()
    assert value.dtype == expected[keys].dtype
    np.testing.assert_array_equal(value, expected[keys])


def test_every_array_is_found(tmp_path):
  path = _write(tmp_path / "model.msgpack", TREE)
  _assert_same(path)
  value = map_arrays(path)["encoder", "kernel"]()
  assert isinstance(value.base, np.ndarray)  # of the file, not a copy
  assert not value.flags.writeable


def test_chunked_arrays_are_joined(tmp_path, monkeypatch):
  # Flax cuts arrays of over a gigabyte; here, those of over 1,000 bytes.
  monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 1000)
  path = _write(tmp_path / "model.msgpack", TREE)
  assert b"__msgpack_chunked_array__" in path.read_bytes()
  _assert_same(path)


def test_other_entries_are_passed_over(tmp_path):
  tree = {
    "step": 70_000,
    "rate": 0.5,
    "name": "a",
    "w": TREE["encoder"]["half"],
  }
  path = _write(tmp_path / "model.msgpack", {**tree, "key": np.float32(1)})
  assert set(map_arrays(path)) == {("w",)}


@pytest.mark.parametrize("size", [0, 1, 40, 84_000])
def test_cut_off_files_are_errors(tmp_path, size):
  path = _write(tmp_path / "model.msgpack", TREE)
  path.write_bytes(path.read_bytes()[:size])
  with pytest.raises(ValueError, match=r"too early|empty"):
    map_arrays(path)


def test_other_files_are_errors(tmp_path):
  path = tmp_path / "model.msgpack"
  for content, message in [
    (b"\x93\x01\x02\x03", "holds no map"),
    (b"\xc1", "0xc1 at 0 is not the start of an object"),
  ]:
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
      map_arrays(path)
