"""Export of checkpoints to T5X, in its Orbax layout."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

from xqg_jax.checkpoints.folders import GENERATOR_FILE
from xqg_jax.checkpoints.query_generators import QueryGenerator
from xqg_jax.checkpoints.steps import step_folder
from xqg_jax.checkpoints.t5x.adafactor import make_statistics, to_param_states
from xqg_jax.checkpoints.t5x.layouts import ORBAX_ITEM
from xqg_jax.errors import InputError
from xqg_jax.io.files import atomic_path, write_json
from xqg_jax.io.paths import Path, absolute_path


def export_t5x(
  output_dir: str | os.PathLike,
  generator: QueryGenerator,
  *,
  step: int,
  statistics: Mapping[str, Any] | None = None,
) -> Path:
  """Writes a query generator as a T5X checkpoint, its tokenizer beside it.

  T5X goes on from it as from one of its own: `output_dir` as its MODEL_DIR, or
  the checkpoint as `utils.RestoreCheckpointConfig.path`.

  Args:
    output_dir: gets `checkpoint_<step>` and `tokenizer.json`.
    generator: its parameters, written as fp32.
    step: the steps that they have behind them.
    statistics: Adafactor's (`find_statistics`); None writes those of a fresh
      optimizer, zeros.

  Returns:
    The folder `checkpoint_<step>`.

  Raises:
    InputError: that step is there already.
  """
  folder = step_folder(absolute_path(output_dir), step)
  if folder.exists():
    raise InputError(
      "this checkpoint is already there",
      where=folder,
      mend="choose another OUTPUT_DIR or delete it",
    )
  params = dict(generator.params)
  tree = {
    "target": params,
    "state": {
      "step": np.asarray(step, np.int32),
      "param_states": to_param_states(statistics or make_statistics(params)),
    },
  }
  generator.tokenizer.save(folder.parent)
  if generator.task is not None:
    write_json(folder.parent / GENERATOR_FILE, generator.task)
  with atomic_path(folder) as partial:
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=True)
    with ocp.Checkpointer(handler) as checkpointer:
      checkpointer.save(partial / ORBAX_ITEM, args=ocp.args.PyTreeSave(tree))
  return folder
