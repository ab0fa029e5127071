"""Conversion of Adafactor's statistics between T5X and optax.

Both keep the same numbers and update them by the same formulas (Shazeer and
Stern 2018): running means of the squared gradient over rows and columns
(`v_row`, `v_col`) where the two largest axes have at least 128 entries, else
of every entry (`v`). T5X files them by parameter, optax by kind. T5X has a
fourth, the momentum `m`, which neither uses by default.
"""

import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import traverse_util

from xqg_jax.checkpoints.placement import StoredTensor
from xqg_jax.errors import InputError
from xqg_jax.io.paths import absolute_path

KINDS = ("v_row", "v_col", "v")
_MOMENTUM = "m"
_COUNT = "count"
# The item of our own checkpoints that holds what training alone needs.
STATE_ITEM = "state"


def make_statistics(params: Mapping[str, Any]) -> dict[str, Any]:
  """The statistics before the first step, as optax files them: zeros.

  Args:
    params: the parameters, or their shapes.

  Returns:
    A tree as the parameters' for each of `KINDS`, of numpy arrays.
  """
  state = jax.eval_shape(optax.scale_by_factored_rms().init, params)
  return {
    kind: jax.tree.map(
      lambda leaf: np.zeros(leaf.shape, np.float32), getattr(state, kind)
    )
    for kind in KINDS
  }


def find_statistics(opt_state: Any) -> dict[str, Any] | None:
  """The statistics in an optimizer's state as a checkpoint holds it.

  Args:
    opt_state: nested dicts and lists, restored without the optimizer.

  Returns:
    A tree as the parameters' for each of `KINDS`; None where the optimizer is
    another one than Adafactor.
  """
  if isinstance(opt_state, Mapping):
    if opt_state.keys() >= {_COUNT, *KINDS}:
      return {kind: opt_state[kind] for kind in KINDS}
    children = opt_state.values()
  else:
    children = opt_state if isinstance(opt_state, list | tuple) else ()
  found = map(find_statistics, children)
  return next((item for item in found if item is not None), None)


def load_statistics(
  checkpoint_folder: str | os.PathLike,
) -> dict[str, Any] | None:
  """Reads the statistics of our own `checkpoint_<step>`, on the host.

  Returns:
    As `find_statistics`; None also where a checkpoint has parameters alone.

  Raises:
    InputError: the state is there but cannot be read.
  """
  path = absolute_path(checkpoint_folder) / STATE_ITEM
  if not path.is_dir():
    return None
  try:
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
      stored = checkpointer.metadata(path).item_metadata.tree
      # AdamW's moments are large: they are not read in vain.
      if find_statistics(stored["opt_state"]) is None:
        return None
      args = jax.tree.map(
        lambda _: ocp.RestoreArgs(restore_type=np.ndarray), stored
      )
      state = checkpointer.restore(
        path, args=ocp.args.PyTreeRestore(restore_args=args)
      )
  except (ValueError, OSError, KeyError, AttributeError) as error:
    raise InputError(
      f"not a readable state ({str(error).splitlines()[0]})",
      where=path,
      mend="copy it again",
    ) from None
  return find_statistics(state["opt_state"])


def to_param_states(statistics: Mapping[str, Any]) -> dict[str, Any]:
  """T5X's `param_states` from statistics as optax files them."""
  flat = {
    (*path, kind): value
    for kind in KINDS
    for path, value in traverse_util.flatten_dict(statistics[kind]).items()
  }
  momentum = {(*path[:-1], _MOMENTUM): np.zeros(1, np.float32) for path in flat}
  return traverse_util.unflatten_dict(flat | momentum)


def restore_opt_state(
  tensors: Mapping[str, StoredTensor],
  *,
  shapes: Any,
  shardings: Any,
  step: int,
  where: object,
) -> Any:
  """An optax state with the statistics of a T5X checkpoint.

  Args:
    tensors: T5X's `param_states`, by path, as `encoder/.../kernel/v_row`.
    shapes: the state's, from `jax.eval_shape(optimizer.init, params)`.
    shardings: where its arrays go, a tree as `shapes`.
    step: the steps done, for all of its counters.
    where: the checkpoint, for messages.

  Raises:
    InputError: the optimizer is not Adafactor, or a tensor is missing or has
      another shape.
  """
  missing = InputError(
    "only Adafactor can go on from a T5X checkpoint, without momentum",
    where=where,
    mend="set OPTIMIZER to adafactor, or take the parameters alone by "
    "INITIAL_CHECKPOINT_PATH",
  )

  def restore(path: tuple[Any, ...], leaf: Any, sharding: Any) -> Any:
    names = [getattr(part, "name", None) for part in path]
    if names[-1] == _COUNT:
      return jax.device_put(np.full(leaf.shape, step, leaf.dtype), sharding)
    kind = next((name for name in names if name in KINDS), None)
    if kind is None:
      raise missing
    keys = (part.key for part in path[names.index(kind) + 1 :])
    name = f"{'/'.join(keys)}/{kind}"
    if name not in tensors or tensors[name].shape != leaf.shape:
      raise InputError(
        f"no tensor state/param_states/{name} of shape {leaf.shape}",
        where=where,
        mend="train with T5X's Adafactor at its default factoring",
      )
    block = tensors[name][(slice(None),) * len(leaf.shape)]
    return jax.device_put(block, sharding)

  has_momentum = any(
    name.endswith(f"/{_MOMENTUM}") and tensor.shape != (1,)
    for name, tensor in tensors.items()
  )
  if has_momentum or not tensors:
    raise missing
  return jax.tree.map_with_path(restore, shapes, shardings)
