"""Stage `export`: a trained model in the formats of other programs.

A query generator goes to transformers or T5X, a dual encoder to transformers
and sentence-transformers.
"""

import os

from xqg_jax.checkpoints import (
  QueryGenerator,
  export_dual_encoder,
  export_query_generator,
  find_checkpoint,
  load_dual_encoder,
  load_query_generator,
)
from xqg_jax.checkpoints.folders import CONFIG_FILE, find_folder
from xqg_jax.checkpoints.steps import step_number
from xqg_jax.checkpoints.t5x.adafactor import load_statistics
from xqg_jax.checkpoints.t5x.export import export_t5x
from xqg_jax.checkpoints.t5x.networks import open_t5x, read_t5x_step
from xqg_jax.errors import InputError
from xqg_jax.io.claims import MANIFEST_FILE, claim_output_dir
from xqg_jax.io.files import read_json, write_json
from xqg_jax.io.manifests import read_sound_manifest, sum_files
from xqg_jax.io.paths import Path
from xqg_jax.models.dual_encoder.config import DualEncoderConfig
from xqg_jax.models.encoder_families import HfConfig

FORMATS = ("hugging_face", "t5x")
_GENERATORS = ("mt5", "t5")


def export(
  *,
  checkpoint_path: str | os.PathLike,
  output_dir: str | os.PathLike,
  format: str = "hugging_face",
  tokenizer_path: str | os.PathLike | None = None,
  encoder: DualEncoderConfig | None = None,
) -> Path:
  """Writes a model for transformers, sentence-transformers or T5X.

  Args:
    checkpoint_path: a MODEL_DIR, one checkpoint in it, a Hugging Face folder or
      hub name, or a checkpoint of T5X.
    output_dir: folder to write.
    format: "hugging_face": a folder for transformers, and for
      sentence-transformers where the model is a dual encoder. "t5x": a folder
      that T5X takes as MODEL_DIR, with parameters, step, tokenizer and, from a
      run with Adafactor, the optimizer's statistics; query generators only.
    tokenizer_path: the tokenizer of a query generator that has none beside it.
    encoder: pooling and prefixes of a dual encoder that does not state them.

  Returns:
    `output_dir`.

  Raises:
    InputError: whatever is missing, damaged or does not fit together.
  """
  if format not in FORMATS:
    raise InputError(
      f"unknown format {format!r}", mend=f"set FORMAT to {' or '.join(FORMATS)}"
    )
  if encoder is None and _is_query_generator(checkpoint_path):
    model = load_query_generator(checkpoint_path, tokenizer_path=tokenizer_path)
  elif format == "t5x":
    raise InputError(
      "T5X has no network for dual encoders",
      where=checkpoint_path,
      mend="set FORMAT to hugging_face",
    )
  else:
    model = load_dual_encoder(checkpoint_path, config=encoder)
  folder = claim_output_dir(
    output_dir,
    stage="export",
    arguments={"model": model.fingerprint, "format": format},
  )
  if read_sound_manifest(folder, task="export") is not None:
    return folder
  if not isinstance(model, QueryGenerator):
    export_dual_encoder(folder, model)
  elif format == "t5x":
    _export_t5x(folder, model, checkpoint_path)
  else:
    export_query_generator(folder, model)
  manifest = {
    "format": format,
    "fingerprint": model.fingerprint,
    "files": sum_files(folder),
  }
  write_json(folder / MANIFEST_FILE, manifest)
  return folder


def _is_query_generator(checkpoint_path: str | os.PathLike) -> bool:
  """Whether a checkpoint is a query generator's; T5X's always are."""
  if find_checkpoint(checkpoint_path) is None and open_t5x(checkpoint_path):
    return True
  folder, _ = find_folder(checkpoint_path)
  if any((folder / name).exists() for name in _DUAL_ENCODER_FILES):
    return False
  config = folder / CONFIG_FILE
  return (
    config.exists()
    and read_json(config, HfConfig).get("model_type") in _GENERATORS
  )


# With one of these, T5's encoder embeds texts.
_DUAL_ENCODER_FILES = ("dual_encoder.json", "modules.json")


def _export_t5x(
  folder: Path,
  generator: QueryGenerator,
  checkpoint_path: str | os.PathLike,
) -> None:
  step, statistics = 0, None
  ours = find_checkpoint(checkpoint_path)
  if ours is not None:
    step, statistics = step_number(ours), load_statistics(ours)
  elif (checkpoint := open_t5x(checkpoint_path)) is not None:
    step = read_t5x_step(checkpoint)
  export_t5x(folder, generator, step=step, statistics=statistics)
