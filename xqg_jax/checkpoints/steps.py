"""Orbax checkpoints of parameters: `MODEL_DIR/checkpoint_<step>/params`.

Beside `params` a trainer may keep other items of the same step.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from xqg_jax.errors import InputError
from xqg_jax.io.buckets import BucketPath
from xqg_jax.io.claims import MANIFEST_FILE
from xqg_jax.io.files import atomic_path
from xqg_jax.io.local_copies import copy_here
from xqg_jax.io.paths import Path, absolute_path, to_path
from xqg_jax.models.parameters import flatten_params

PARAMS_ITEM = "params"
STEP_FOLDER = re.compile(r"checkpoint_(\d+)")


def step_folder(model_dir: str | os.PathLike, step: int) -> Path:
  """The folder of a step's checkpoint.

  >>> step_folder("models/e5", 1000).name
  'checkpoint_1000'
  """
  return to_path(model_dir) / f"checkpoint_{step}"


def step_number(checkpoint_folder: str | os.PathLike) -> int:
  """The step of a folder `checkpoint_<step>`.

  >>> step_number("models/e5/checkpoint_1000")
  1000
  """
  return int(to_path(checkpoint_folder).name.rpartition("_")[2])


def list_steps(model_dir: str | os.PathLike) -> list[int]:
  """The steps of finished checkpoints with parameters, oldest first."""
  folder = to_path(model_dir)
  found = (
    STEP_FOLDER.fullmatch(path.name)
    for path in (folder.iterdir() if folder.is_dir() else ())
    if (path / PARAMS_ITEM).is_dir() and not _is_unfinished(path)
  )
  return sorted(int(match[1]) for match in found if match)


def _is_unfinished(folder: Path) -> bool:
  """Whether training is still writing a step to a bucket, or was killed.

  There what it writes first is seen at once; it writes the manifest last.
  """
  return (
    isinstance(folder, BucketPath)
    and (folder / "metrics.json").is_file()
    and not (folder / MANIFEST_FILE).is_file()
  )


def find_checkpoint(checkpoint_path: str | os.PathLike) -> Path | None:
  """The folder `checkpoint_<step>` that a path means, or None.

  Args:
    checkpoint_path: such a folder, or a MODEL_DIR: then its newest step.
  """
  path = to_path(checkpoint_path)
  if STEP_FOLDER.fullmatch(path.name) and (path / PARAMS_ITEM).is_dir():
    return path
  steps = list_steps(path)
  return step_folder(path, steps[-1]) if steps else None


def save_params(
  model_dir: str | os.PathLike, step: int, params: Mapping[str, Any]
) -> Path:
  """Writes `checkpoint_<step>/params`, atomically, and returns the step folder.

  Raises:
    InputError: that step is there already.
  """
  folder = step_folder(model_dir, step).absolute()
  if folder.exists():
    raise InputError(
      "this checkpoint is already there",
      where=folder,
      mend="choose another MODEL_DIR or delete it",
    )
  with atomic_path(folder) as partial:
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
      checkpointer.save(partial / PARAMS_ITEM, dict(params))
  return folder


def load_params(
  checkpoint_folder: str | os.PathLike,
  *,
  shapes: Mapping[str, Any] | None = None,
  sharding: jax.sharding.Sharding | Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """Reads `params` of a step's folder.

  Args:
    checkpoint_folder: `MODEL_DIR/checkpoint_<step>`.
    shapes: the shapes that the model needs (`param_shapes`), compared before
      anything is read; None takes what is there.
    sharding: where arrays go, one for all or a tree as the parameters'; by
      default whole on the first local device, whatever devices wrote them.

  Raises:
    InputError: no parameters there, or unreadable or non-finite ones, or
      one that is missing, unknown or of another shape than in `shapes`.
  """
  path = absolute_path(checkpoint_folder) / PARAMS_ITEM
  if not path.is_dir():
    raise InputError(
      "no parameters", where=path, mend="give MODEL_DIR or checkpoint_<step>"
    )
  path = copy_here(path)
  whole = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  handler = ocp.StandardCheckpointHandler()
  try:
    with ocp.Checkpointer(handler) as checkpointer:
      stored = checkpointer.metadata(path).item_metadata.tree
      if shapes is not None:
        _check_shapes(stored, shapes, where=path.parent)
      target = _make_target(stored, sharding or whole)
      params = checkpointer.restore(path, args=ocp.args.StandardRestore(target))
  except (ValueError, OSError, KeyError, AttributeError) as error:
    raise InputError(
      f"not a readable Orbax checkpoint ({str(error).splitlines()[0]})",
      where=path,
      mend="copy it again",
    ) from None
  _check_finite(params, path)
  return params


def _check_shapes(
  params: Mapping[str, Any],
  expected: Mapping[str, Any],
  *,
  where: Path,
) -> None:
  found = flatten_params(params)
  wanted = flatten_params(expected)
  for name in sorted(found.keys() | wanted.keys()):
    if name not in found:
      what = f"no parameter {name}"
    elif name not in wanted:
      what = f"parameter {name} has no place in the model"
    elif found[name].shape != wanted[name].shape:
      what = (
        f"parameter {name} has shape {found[name].shape}, "
        f"expected {wanted[name].shape}"
      )
    else:
      continue
    raise InputError(
      what, where=where, mend="check config.json beside the checkpoint"
    )


def _make_target(
  stored: Mapping[str, Any], sharding: jax.sharding.Sharding | Mapping[str, Any]
) -> Any:
  """What Orbax shall restore: the stored shapes, on the wanted devices."""
  if isinstance(sharding, jax.sharding.Sharding):
    sharding = jax.tree.map(lambda _: sharding, stored)
  return jax.tree.map(
    lambda leaf, place: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=place
    ),
    stored,
    sharding,
  )


def _check_finite(params: Mapping[str, Any], path: Path) -> None:
  flat = flatten_params(params)
  finite = jax.jit(
    lambda tree: jax.tree.map(lambda x: jnp.isfinite(x).all(), tree)
  )
  for name, is_finite in jax.device_get(finite(flat)).items():
    if not np.all(is_finite):
      raise InputError(
        f"parameter {name} has values that are NaN or infinite",
        where=path,
        mend="take an earlier checkpoint",
      )
