"""Model folders: config and tokenizer files, lookup on disk and on the hub.

A CHECKPOINT_PATH is one of
  - a Hugging Face folder: `config.json`, weights, tokenizer;
  - our MODEL_DIR: `config.json`, `tokenizer.json`, `dual_encoder.json` (dual
    encoders only) and `checkpoint_<step>/params`; the newest step is taken;
  - `MODEL_DIR/checkpoint_<step>`;
  - for a dual encoder of separate sides, a folder with `query_encoder` and
    `passage_encoder`, each a Hugging Face folder;
  - the name of a model on the Hugging Face hub.
"""

import dataclasses
import os
import re
from collections.abc import Mapping
from typing import Any

from xqg_jax.checkpoints.hugging_face.sentence_transformers import (
  find_transformer,
)
from xqg_jax.checkpoints.hugging_face.tensors import (
  SAFETENSORS_FILE,
  find_hf_weights,
)
from xqg_jax.checkpoints.mirrors import mirror_folder
from xqg_jax.checkpoints.steps import find_checkpoint
from xqg_jax.errors import InputError
from xqg_jax.io.buckets import BucketPath
from xqg_jax.io.files import write_json
from xqg_jax.io.paths import Path, to_path
from xqg_jax.models.dual_encoder.config import (
  SIDES,
  DualEncoderConfig,
  Side,
  side_name,
)
from xqg_jax.text.tokenizer import Tokenizer

CONFIG_FILE = "config.json"
DUAL_ENCODER_FILE = "dual_encoder.json"
GENERATOR_FILE = "query_generator.json"

# Such as xlm-roberta-base or intfloat/multilingual-e5-small.
_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_HUB_FILES = ("*.json", "*.txt", "*.model", "*_Dense/*")
# The first form that is there is downloaded, and no other.
_HUB_WEIGHTS = (
  "model*.safetensors",
  "flax_model*.msgpack",
  "pytorch_model*.bin",
)


def find_folder(
  checkpoint_path: str | os.PathLike,
) -> tuple[Path, Path | None]:
  """The folder of a model, and its step's folder unless it is in HF form.

  Raises:
    InputError: no such folder, here or on the hub, or not that of a model.
  """
  path = to_path(checkpoint_path)
  if isinstance(path, BucketPath):
    path = mirror_folder(path)
  if not path.exists() and _HUB_NAME.fullmatch(str(checkpoint_path)):
    path = _download(str(checkpoint_path))
  if not path.is_dir():
    raise InputError(
      "no such folder",
      where=path,
      mend="give a checkpoint's folder, or a hub name such as "
      "intfloat/multilingual-e5-small",
    )
  step = find_checkpoint(path)
  folder = path.absolute().parent if step == path else path
  if step is None and find_side_folders(folder):
    return folder, None
  if not (find_transformer(folder) / CONFIG_FILE).exists():
    raise InputError(
      f"no {CONFIG_FILE}", where=folder, mend="give the folder of a model"
    )
  if step is None and find_hf_weights(find_transformer(folder)) is None:
    raise InputError(
      f"neither checkpoint_<step> nor {SAFETENSORS_FILE}",
      where=folder,
      mend="give a folder with trained or downloaded weights",
    )
  return folder, step


def find_side_folders(folder: Path) -> dict[Side, Path]:
  """The folders of a dual encoder's two sides; none where both share one.

  Raises:
    InputError: the folder of one side is there, that of the other is not.
  """
  folders: dict[Side, Path] = {side: folder / side_name(side) for side in SIDES}
  found = [
    path
    for path in folders.values()
    if (find_transformer(path) / CONFIG_FILE).exists()
  ]
  if (folder / CONFIG_FILE).exists() or not found:
    return {}
  for path in folders.values():
    if path not in found:
      raise InputError(
        f"{found[0].name} is there, but no {path.name}/{CONFIG_FILE}",
        where=folder,
        mend="put the models of both sides there",
      )
  return folders


def _download(name: str) -> Path:
  import huggingface_hub
  from huggingface_hub import errors

  try:
    for form in _HUB_WEIGHTS:
      # The asterisk lets in those of a side or of another subfolder.
      folder = huggingface_hub.snapshot_download(
        name, allow_patterns=[*_HUB_FILES, f"*{form}"]
      )
      if any(to_path(folder).glob(form)):
        break
  except (OSError, ValueError, errors.HfHubHTTPError) as error:
    line = str(error).strip().splitlines()[0]
    raise InputError(
      f"not found locally or on the hub ({line})",
      where=name,
      mend="check the path or the name, or download the model first",
    ) from None
  return to_path(folder)


def save_model_files(
  model_dir: str | os.PathLike,
  *,
  model_config_hf: Mapping[str, Any],
  tokenizer: Tokenizer,
  dual_encoder_config: DualEncoderConfig | None = None,
  generator_task: Mapping[str, Any] | None = None,
) -> None:
  """Writes what a model needs beside its parameters.

  Args:
    model_dir: the folder; `save_params` adds checkpoints to it.
    model_config_hf: `to_hf()` of the model's configuration.
    tokenizer: its tokenizer.
    dual_encoder_config: pooling and prefixes, for a dual encoder.
    generator_task: what a query generator was trained for: `language_in` and,
      if they are known, `languages`.
  """
  folder = to_path(model_dir)
  tokenizer.save(folder)
  if dual_encoder_config is not None:
    values = dataclasses.asdict(dual_encoder_config)
    write_json(folder / DUAL_ENCODER_FILE, values)
  if generator_task is not None:
    write_json(folder / GENERATOR_FILE, dict(generator_task))
  write_json(folder / CONFIG_FILE, dict(model_config_hf))
