"""A network's parameters: random start, shapes, logical axes, fingerprint.

`BertEncoder` and `T5` are both called with three integer arrays, so one set of
functions serves both.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from flax.core import unfreeze
from flax.linen import partitioning
from jaxtyping import Array

Params = Mapping[str, Any]
# Takes a parameter's path and values, a view of a file or whatever gives its
# blocks, and returns what to keep of it, such as an array on its devices.
Place = Callable[[str, Any], Any]


def init_params(module: nn.Module, rng: Array) -> Params:
  """Random fp32 parameters for training from scratch."""
  dummy = jnp.zeros((1, 1), jnp.int32)
  return jax.jit(module.init)(rng, dummy, dummy, dummy)["params"]


def param_shapes(module: nn.Module) -> Params:
  """The tree of `jax.ShapeDtypeStruct` that `init_params` would fill."""
  return jax.eval_shape(lambda rng: init_params(module, rng), jax.random.key(0))


def param_axes(module: nn.Module) -> Params:
  """The tree of each parameter's logical axis names, in order."""
  dummy = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  variables = jax.eval_shape(
    module.init, jax.random.key(0), dummy, dummy, dummy
  )
  return unfreeze(partitioning.get_axis_names(variables["params_axes"]))


def flatten_params(params: Mapping[str, Any]) -> dict[str, Any]:
  """The leaves of a tree of parameters by their paths, in the tree's order.

  >>> flatten_params({"encoder": {"scale": 1, "bias": 2}})
  {'encoder/scale': 1, 'encoder/bias': 2}
  """
  return traverse_util.flatten_dict(params, sep="/")


def params_fingerprint(params: Mapping[str, Any]) -> str:
  """SHA-256 over the paths, shapes, dtypes and bytes of parameters.

  >>> params_fingerprint({"a": {"bias": np.zeros(2, np.float32)}})[:8]
  'b8c1640c'
  """
  digest = hashlib.sha256()
  flat = flatten_params(params)
  for path in sorted(flat):
    value = np.ascontiguousarray(flat[path])
    digest.update(f"{path} {value.dtype} {value.shape}\n".encode())
    digest.update(value.view(np.uint8).data)
  return digest.hexdigest()
