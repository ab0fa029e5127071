"""A tiny T5X checkpoint in both layouts, written without our own writer."""

import pathlib

import msgpack
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from flax.traverse_util import flatten_dict, unflatten_dict

from xqg_jax.io.locations import CONTEXT, Location
from xqg_jax.models.parameters import param_shapes
from xqg_jax.models.t5 import network
from xqg_jax.text.tokenizer_training import train_tokenizer

CONFIG = network.T5Config(
  vocab_size=300,
  emb_dim=16,
  num_heads=2,
  head_dim=5,
  mlp_dim=24,
  num_encoder_layers=1,
  num_decoder_layers=2,
)
GET_T5X = (
  "needs T5X: pip install -e '.[t5x]', then the three commits with --no-deps "
  "that docs/guide/query_generation.md names"
)
TOKENIZER = train_tokenizer(
  ["the old mill by the river"], vocab_size=60, style="t5"
)


def random_params(config=CONFIG, seed=0):
  """Random parameters, by path."""
  shapes = flatten_dict(param_shapes(network.T5(config=config)), sep="/")
  rng = np.random.default_rng(seed)
  return {
    name: rng.normal(size=leaf.shape).astype(np.float32)
    for name, leaf in shapes.items()
  }


PARAMS = random_params()


# ------------------------------------------- the two layouts, written by hand


def _to_ext(value):
  """An array in msgpack, as Flax keeps it."""
  value = np.asarray(value)
  content = msgpack.packb((value.shape, value.dtype.name, value.tobytes()))
  return msgpack.ExtType(1, content)


def _to_spec(path, form):
  """A stand-in for an array in msgpack, as T5X has written it over time."""
  metadata = {"chunks": {"0": 7}, "compressor": {"id": "gzip", "level": 1}}
  bucket = {"driver": "gcs", "bucket": "t5x-dummy-bucket"}
  spec = {"driver": "zarr", "dtype": "float32", "metadata": metadata}
  return (
    spec
    | {
      "old gcs": {"kvstore": bucket, "path": path},
      "gcs": {"kvstore": bucket | {"path": f"{path}/"}},
      "gfile": {"kvstore": {"driver": "gfile", "path": path}},
      "file": {"kvstore": {"driver": "file", "path": f"{path}/"}},
    }[form]
  )


def write_zarr(kvstore, value, chunks):
  spec = {
    "driver": "zarr",
    "kvstore": kvstore,
    "metadata": {"chunks": chunks, "compressor": {"id": "gzip", "level": 1}},
  }
  store = ts.open(
    spec,
    create=True,
    shape=value.shape,
    dtype=value.dtype.name,
    context=CONTEXT,
  )
  store.result().write(value).result()


def write_classic(folder, params=PARAMS, *, step=7, form="gcs", drop=()):
  """Norms inline, matrices as zarr in chunks that do not divide them."""
  folder = Location.of(folder)
  target = {}
  for name, value in params.items():
    if value.ndim < 2:
      target[name] = _to_ext(value)
      continue
    path = f"target.{name.replace('/', '.')}"
    target[name] = _to_spec(path, form)
    if name not in drop:
      write_zarr((folder / path).kvstore(), value, [7, 9])
  tree = {
    "version": 3,
    "optimizer": {
      "target": unflatten_dict(target, sep="/"),
      "state": {"step": _to_ext(np.int32(step)), "param_states": {}},
    },
  }
  store = ts.KvStore.open(folder.kvstore(), context=CONTEXT).result()
  store.write("checkpoint", msgpack.packb(tree)).result()
  return folder


def write_orbax(folder, params=PARAMS, *, step=7):
  tree = {
    "target": unflatten_dict(params, sep="/"),
    "state": {"step": np.int32(step), "param_states": {}},
  }
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
    path = pathlib.Path(folder, "state").absolute()
    checkpointer.save(path, args=ocp.args.PyTreeSave(tree))
  return folder


WRITERS = {"classic": write_classic, "orbax": write_orbax}


def assert_params(params, expected=PARAMS):
  found = flatten_dict(params, sep="/")
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    assert found[name].dtype == np.float32
    assert np.asarray(found[name]).tobytes() == value.tobytes(), name
