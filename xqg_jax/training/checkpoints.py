"""Training checkpoints: written asynchronously, verified, restored.

`MODEL_DIR/checkpoint_<step>` holds `params`, which every stage reads, and
`state` and `metrics.json`, which only training reads. A thread of its own
writes it under another name, reads it back, compares it bit for bit with what
was to be saved, and only then gives it its name. The step says where in the
data and in the random numbers a run stands, since both follow from it and the
seed.
"""

import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import Sharding

from xqg_jax.checkpoints import list_steps, step_folder
from xqg_jax.checkpoints.steps import PARAMS_ITEM
from xqg_jax.checkpoints.t5x.adafactor import STATE_ITEM
from xqg_jax.errors import InputError, NativeError
from xqg_jax.io.buckets import BucketPath
from xqg_jax.io.files import read_json, write_json
from xqg_jax.io.paths import Path, absolute_path
from xqg_jax.io.sealed_folders import (
  clear_leftovers,
  discard_folder,
  find_damage,
  partial_folder,
  seal_folder,
)
from xqg_jax.training.state import Trainer, TrainState

METRICS_FILE = "metrics.json"
StepMetrics = Sequence[Mapping[str, float]]

_HOST_MEMORY = "pinned_host"
# So much is read back at a time.
_VERIFIED_BYTES = 256 * 2**20
_BARRIER_MILLISECONDS = 3600 * 1000


class CheckpointWriter:
  """Saves a run's state while the run goes on; one save at a time.

  Attributes:
    last_step: the newest step that is saved or about to be.
  """

  def __init__(
    self,
    model_dir: str | os.PathLike,
    *,
    last_step: int = 0,
    seed: int = 0,
    keep: int = 2,
  ):
    """Starts the thread of a run that stands at `last_step`."""
    self.last_step = last_step
    self._model_dir = absolute_path(model_dir)
    self._seed = seed
    self._keep = keep
    self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
    self._running: Future[None] | None = None

  def __enter__(self) -> "CheckpointWriter":
    return self

  def __exit__(self, kind: type | None, *unused: object) -> None:
    try:
      if kind is None:
        self.wait()
    finally:
      self._thread.shutdown()

  def save(self, state: TrainState, *, metrics: StepMetrics = ()) -> None:
    """Copies the state and begins to write it; waits for the save before.

    Args:
      state: may be given to the next step right away.
      metrics: of the steps that are in no row of the metrics yet.
    """
    self.wait()
    self.last_step = int(state.step)
    copy = _copy_to_host(state)
    self._running = self._thread.submit(
      self._write, copy, self.last_step, metrics
    )

  def check(self) -> None:
    """Raises what the thread has raised, if anything."""
    if self._running is not None and self._running.done():
      self.wait()

  def wait(self) -> None:
    """Waits until everything is written; raises what the thread raises."""
    running, self._running = self._running, None
    if running is not None:
      running.result()

  def _write(self, state: TrainState, step: int, metrics: StepMetrics) -> None:
    folder = step_folder(self._model_dir, step)
    partial = partial_folder(folder)
    is_first = jax.process_index() == 0
    try:
      if is_first:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
      _wait_for_others(f"{step}_begins")
      for name, tree in _to_items(state).items():
        _write_item(partial / name, tree)
        _verify_item(partial / name, tree)
      _wait_for_others(f"{step}_is_verified")
      if is_first:
        write_json(partial / METRICS_FILE, list(metrics))
        seal_folder(folder, {"step": step, "seed": self._seed})
        for old in list_steps(self._model_dir)[: -self._keep]:
          discard_folder(step_folder(self._model_dir, old))
      _wait_for_others(f"{step}_ends")
    finally:
      if is_first:
        shutil.rmtree(partial, ignore_errors=True)


def _to_items(state: TrainState) -> dict[str, Any]:
  return {
    PARAMS_ITEM: state.params,
    STATE_ITEM: {"step": state.step, "opt_state": state.opt_state},
  }


def _copy_to_host(tree: Any) -> Any:
  """Begins to copy a tree; the originals may be overwritten by a next step."""
  places = jax.tree.map(lambda x: _on_host(x.sharding), tree)
  return jax.device_put(tree, places, may_alias=False)


def _on_host(sharding: Sharding) -> Sharding:
  device = next(iter(sharding.addressable_devices))
  if device.platform == "cpu":  # its memory is the host's
    return sharding
  kinds = [memory.kind for memory in device.addressable_memories()]
  if _HOST_MEMORY not in kinds:
    return sharding
  return sharding.with_memory_kind(_HOST_MEMORY)


# -------------------------------------------------------- several processes


def _wait_for_others(name: str) -> None:
  """Waits for the other processes without using their devices.

  The thread must not start computations over all devices: their order among
  those of the training steps would differ from process to process.
  """
  barrier = ocp.multihost.get_barrier_sync_fn()
  barrier(key=f"xqg_checkpoint_{name}", timeout_ms=_BARRIER_MILLISECONDS)


def _open(handler: type, purpose: str) -> ocp.Checkpointer:
  """A checkpointer whose processes wait for each other as the thread does."""
  count = jax.process_count()
  options = ocp.options.MultiprocessingOptions(
    active_processes=set(range(count)) if count > 1 else None,
    barrier_sync_key_prefix=purpose,
  )
  return ocp.Checkpointer(
    handler(multiprocessing_options=options), multiprocessing_options=options
  )


# ------------------------------------------------------------------- writing


def _write_item(folder: Path, tree: Any) -> None:
  name = f"{folder.parent.name}_{folder.name}"
  with _open(ocp.StandardCheckpointHandler, f"{name}_write") as checkpointer:
    checkpointer.save(folder, tree)


def _verify_item(folder: Path, tree: Any) -> None:
  """Reads an item back, part after part, and compares its bits.

  Raises:
    NativeError: an array is not what was to be saved.
  """
  leaves, structure = jax.tree.flatten(tree)
  names = [
    jax.tree_util.keystr(path, simple=True, separator="/")
    for path, _ in jax.tree.leaves_with_path(tree)
  ]
  sizes = [leaf.nbytes for leaf in leaves]
  for number, group in enumerate(_group(sizes, _VERIFIED_BYTES)):
    wanted = structure.unflatten(
      [
        _to_shape(leaf) if index in group else ocp.PLACEHOLDER
        for index, leaf in enumerate(leaves)
      ]
    )
    purpose = f"{folder.parent.name}_{folder.name}_verify_{number}"
    found = jax.tree.leaves(_read_part(folder, wanted, purpose))
    for index in group:
      if not _have_same_bits(leaves[index], found[index]):
        raise NativeError(
          f"{folder}: {names[index]} was read back with other values than "
          "were written; check the disk"
        )


def _group(sizes: Sequence[int], limit: int) -> Iterator[range]:
  """Neighbours whose sizes add up to no more than a limit, or one alone.

  >>> list(_group([3, 3, 3, 9], 6))
  [range(0, 2), range(2, 3), range(3, 4)]
  """
  start, total = 0, 0
  for index, size in enumerate(sizes):
    if index > start and total + size > limit:
      yield range(start, index)
      start, total = index, 0
    total += size
  if sizes:
    yield range(start, len(sizes))


def _to_shape(leaf: jax.Array) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _read_part(folder: Path, wanted: Any, purpose: str) -> Any:
  arguments = ocp.args.PyTreeRestore(
    wanted, restore_args=ocp.checkpoint_utils.construct_restore_args(wanted)
  )
  with _open(ocp.PyTreeCheckpointHandler, purpose) as checkpointer:
    return checkpointer.restore(folder, args=arguments)


def _have_same_bits(one: jax.Array, other: jax.Array) -> bool:
  """Whether two arrays with one sharding agree, signs of zero included."""
  shards = zip(one.addressable_shards, other.addressable_shards, strict=True)
  return all(
    np.array_equal(_to_bytes(a.data), _to_bytes(b.data))
    for a, b in shards
    if a.replica_id == 0
  )


def _to_bytes(array: jax.Array) -> np.ndarray:
  return np.ascontiguousarray(np.asarray(array)).reshape(-1).view(np.uint8)


# ----------------------------------------------------------------- restoring


def restore_state(
  model_dir: str | os.PathLike, trainer: Trainer
) -> TrainState | None:
  """Reads the newest good checkpoint, or returns None where there is none.

  A damaged checkpoint is reported and removed, so that the run can write its
  step again.

  Raises:
    InputError: a checkpoint is whole, but not one of this run.
  """
  folder = absolute_path(model_dir)
  if jax.process_index() == 0:
    clear_leftovers(folder, "checkpoint_*")
    _remove_damaged(folder)
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices("damaged_checkpoints_are_removed")
  target = jax.tree.map(
    lambda shape, sharding: jax.ShapeDtypeStruct(
      shape.shape, shape.dtype, sharding=sharding
    ),
    trainer.shapes,
    trainer.shardings,
  )
  return _read_newest(folder, target)


def _remove_damaged(model_dir: Path) -> None:
  """Removes the newest checkpoints until one is as its manifest says."""
  for step in reversed(list_steps(model_dir)):
    folder = step_folder(model_dir, step)
    damage = find_damage(folder)
    if damage is None:
      return
    _remove(folder, damage)


def _remove(folder: Path, damage: str) -> None:
  print(f"{folder} is damaged and removed: {damage}", file=sys.stderr)
  discard_folder(folder)


def _read_newest(model_dir: Path, target: TrainState) -> TrainState | None:
  """Reads the newest checkpoint; one without a manifest may be unreadable.

  It is removed if the one before it can be read.
  """
  unreadable: dict[Path, str] = {}
  for step in reversed(list_steps(model_dir)):
    folder = step_folder(model_dir, step)
    try:
      state = _read_state(folder, target)
    except Exception as error:  # Orbax and TensorStore raise many kinds.
      unreadable[folder] = (str(error).splitlines() or [repr(error)])[0]
      continue
    for other, why in unreadable.items():
      _remove(other, why)
    return state
  for folder, why in unreadable.items():
    raise InputError(
      f"not a checkpoint of this run ({why})",
      where=folder,
      mend="choose another MODEL_DIR, or delete it to start over",
    )
  return None


def _read_state(folder: Path, target: TrainState) -> TrainState:
  if isinstance(folder, BucketPath):
    with tempfile.TemporaryDirectory() as scratch:
      copy = pathlib.Path(scratch, folder.name)
      folder.download(copy)
      return _read_state(copy, target)
  found = {}
  for name, tree in _to_items(target).items():
    purpose = f"{folder.name}_{name}_restore"
    with _open(ocp.StandardCheckpointHandler, purpose) as checkpointer:
      found[name] = checkpointer.restore(
        folder / name, args=ocp.args.StandardRestore(tree)
      )
  state = found[STATE_ITEM]
  return TrainState(state["step"], found[PARAMS_ITEM], state["opt_state"])


def read_pending_metrics(
  model_dir: str | os.PathLike, step: int
) -> list[dict[str, float]]:
  """The metrics that the checkpoint of a step keeps for the row to come."""
  path = step_folder(model_dir, step) / METRICS_FILE
  return read_json(path, list[dict[str, float]]) if path.is_file() else []
