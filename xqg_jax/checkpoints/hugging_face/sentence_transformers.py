"""Files of sentence-transformers: pooling, projection, prompts.

`modules.json` lists Transformer, Pooling and, where a model has them, Dense
and Normalize. Folders of all its versions are read; those written here open
in all that know `max_seq_length`, from 6 on also with two lengths.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from xqg_jax.checkpoints.hugging_face.sentence_transformers_files import (
  DenseFile,
  ModuleRecord,
  PoolingFile,
  PromptsFile,
  TokenizerFile,
  TokenizerSettings,
  TransformerFile,
)
from xqg_jax.checkpoints.hugging_face.tensors import (
  SAFETENSORS_FILE,
  read_hf_tensors,
  write_safetensors,
)
from xqg_jax.errors import InputError
from xqg_jax.io.files import read_json, write_json
from xqg_jax.io.paths import Path, to_path
from xqg_jax.models.dual_encoder.config import (
  DualEncoderConfig,
  ProjectionConfig,
)
from xqg_jax.models.dual_encoder.pooling import POOLINGS
from xqg_jax.models.parameters import Params, Place
from xqg_jax.text.tokenizer import SETTINGS_FILE, TOKENIZER_FILE

MODULES_FILE = "modules.json"
PROMPTS_FILE = "config_sentence_transformers.json"
TRANSFORMER_FILE = "sentence_bert_config.json"
MODULE_FILE = "config.json"

# The modules we know, in their order. Versions differ in the packages only.
_KINDS = ("Transformer", "Pooling", "Dense", "Normalize")
_PACKAGE = "sentence_transformers.models"
_MODES: dict[str, str] = {p.hf_name: name for name, p in POOLINGS.items()}
_ACTIVATIONS = {"Identity": "identity", "Tanh": "tanh"}
_VECTORS = "sentence_embedding"


# ------------------------------------------------------------------------ read


def _read_modules(folder: Path) -> dict[str, Path]:
  """The folder of each module by its kind; none without `modules.json`."""
  path = folder / MODULES_FILE
  if not path.exists():
    return {}
  kinds = [
    (module["type"].rsplit(".", 1)[-1], folder / module.get("path", ""))
    for module in read_json(path, list[ModuleRecord])
  ]
  names = [kind for kind, _ in kinds]
  is_known = names == [kind for kind in _KINDS if kind in names]
  if not is_known or names[:2] != list(_KINDS[:2]):
    raise InputError(
      f"the modules are {', '.join(names)}",
      where=path,
      mend="dual encoders here are Transformer, Pooling, maybe Dense, maybe "
      "Normalize, in this order",
    )
  _check_whole(folder / PROMPTS_FILE)
  return dict(kinds)


def find_transformer(folder: Path) -> Path:
  """The folder of the transformer, its tokenizer and its lengths.

  The folder itself, or one in it, as the first versions wrote.

  Raises:
    InputError: modules that we lack.
  """
  return _read_modules(folder).get("Transformer", folder)


def _check_whole(path: Path) -> None:
  """Refuses vectors that are cut, which other settings would not show."""
  if not path.exists():
    return
  dim = read_json(path, PromptsFile).get("truncate_dim")
  if dim is not None:
    raise InputError(
      f"truncate_dim is {dim}, but vectors here are never cut",
      where=path,
      mend="set it to null to have whole vectors",
    )


def read_pooling(
  folder: str | os.PathLike, *, max_length: int | None
) -> DualEncoderConfig | None:
  """Pooling, projection, prompts and lengths of a folder.

  Args:
    folder: with `modules.json`; its prompts `query` and `document` (or
      `passage` or `corpus`) become the prefixes.
    max_length: the longest text of the transformer, None: any.

  Returns:
    None when the folder has no `modules.json`.

  Raises:
    InputError: a module, a pooling or another feature that we lack.
  """
  folder = to_path(folder)
  modules = _read_modules(folder)
  if not modules:
    return None
  prefixes = _read_prefixes(folder / PROMPTS_FILE)
  config = DualEncoderConfig(
    pooling=_read_mode(modules["Pooling"] / MODULE_FILE, prefixes),
    normalize="Normalize" in modules,
    projection=read_projection_config(folder),
    query_prefix=prefixes["query"],
    passage_prefix=prefixes["passage"],
  )
  lengths = _read_lengths(modules["Transformer"], max_length)
  return dataclasses.replace(config, **lengths)


def _read_mode(path: Path, prefixes: Mapping[str, str]) -> str:
  values = read_json(path, PoolingFile)
  chosen = [
    name
    for name, value in values.items()
    if name.startswith("pooling_mode_") and value is True
  ]
  modes = [_MODES.get(name) or name for name in chosen]
  modes = modes or [str(values.get("pooling_mode"))]
  if len(modes) != 1 or modes[0] not in _MODES.values():
    raise InputError(
      f"the pooling is {' and '.join(modes)}",
      where=path,
      mend=f"dual encoders here pool by {' or by '.join(POOLINGS)}",
    )
  if values.get("include_prompt") is False and any(prefixes.values()):
    raise InputError(
      "include_prompt is false",
      where=path,
      mend="dual encoders here pool the tokens of prompts, too",
    )
  return modes[0]


def _read_prefixes(path: Path) -> dict[str, str]:
  prompts = (
    (read_json(path, PromptsFile).get("prompts") or {}) if path.exists() else {}
  )
  names = ("document", "passage", "corpus")
  passage = next((prompts[name] for name in names if prompts.get(name)), "")
  return {"query": prompts.get("query") or "", "passage": passage}


def _read_lengths(folder: Path, max_length: int | None) -> dict[str, int]:
  """Tokens kept of a text: as stated, within what the transformer takes."""
  path = folder / TRANSFORMER_FILE
  values = read_json(path, TransformerFile) if path.exists() else {}
  if values.get("do_lower_case") and not _lowers_case(folder):
    raise InputError(
      "do_lower_case is true, but the tokenizer keeps capitals",
      where=path,
      mend=f"put a Lowercase normalizer into {TOKENIZER_FILE}",
    )
  settings = folder / SETTINGS_FILE
  tokenizer = (
    read_json(settings, TokenizerSettings) if settings.exists() else {}
  )
  length = values.get("max_seq_length") or tokenizer.get("model_max_length")
  lengths = {
    "query_length": values.get("query_length") or length,
    "passage_length": values.get("document_length") or length,
  }
  limit = 2**20 if max_length is None else max_length
  found = {name: min(n or limit, limit) for name, n in lengths.items()}
  # Where nothing limits a text, our own defaults do.
  return {name: int(n) for name, n in found.items() if n < 2**20}


def _lowers_case(folder: Path) -> bool:
  path = folder / TOKENIZER_FILE
  if not path.exists():
    return False
  normalizer = read_json(path, TokenizerFile).get("normalizer") or {}
  parts = [normalizer, *normalizer.get("normalizers", ())]
  return any(
    part.get("type") == "Lowercase" or part.get("lowercase") is True
    for part in parts
  )


def read_projection_config(
  folder: str | os.PathLike,
) -> ProjectionConfig | None:
  """The configuration of a folder's Dense; None where it has none.

  Raises:
    InputError: an activation or another feature that we lack.
  """
  modules = _read_modules(to_path(folder))
  if "Dense" not in modules:
    return None
  path = modules["Dense"] / MODULE_FILE
  values = read_json(path, DenseFile)
  activation = values.get("activation_function", "torch.nn.Tanh")
  # Such as torch.nn.modules.activation.Tanh.
  package, _, name = activation.rpartition(".")
  if not package.startswith("torch.nn") or name not in _ACTIVATIONS:
    raise InputError(
      f"activation_function is {activation}",
      where=path,
      mend="dual encoders here know Identity and Tanh of torch.nn",
    )
  others = {
    "use_residual": (None, False),
    "module_input_name": (None, _VECTORS),
    "module_output_name": (None, _VECTORS),
  }
  for key, accepted in others.items():
    if values.get(key) not in accepted:
      raise InputError(
        f"{key} is {values[key]!r}",
        where=path,
        mend=f"dual encoders here need {accepted[1]!r}",
      )
  return ProjectionConfig(
    size=values["out_features"],
    use_bias=values.get("bias", True),
    activation=_ACTIVATIONS[name],
  )


def read_projection(
  folder: str | os.PathLike,
  config: ProjectionConfig,
  *,
  width: int,
  place: Place,
) -> Params:
  """The parameters of a folder's Dense.

  Args:
    folder: with `modules.json`.
    config: what `read_projection_config` returned.
    width: the length of a pooled vector.
    place: takes "kernel" or "bias" and the values, and returns what to keep.

  Raises:
    InputError: a tensor is missing, unknown or of another shape.
  """
  tensors = read_hf_tensors(_read_modules(to_path(folder))["Dense"])
  shapes: dict[str, tuple[int, ...]] = {"linear.weight": (config.size, width)}
  if config.use_bias:
    shapes["linear.bias"] = (config.size,)
  for name in dict.fromkeys([*shapes, *sorted(tensors)]):
    if name not in tensors:
      what = f"no tensor {name}"
    elif name not in shapes:
      what = f"tensor {name} has no place in a Dense of this configuration"
    elif tensors[name].shape != shapes[name]:
      what = (
        f"tensor {name} has shape {tensors[name].shape}, "
        f"expected {shapes[name]}"
      )
    else:
      continue
    raise InputError(
      what,
      where=tensors.where,
      mend="take all modules from one model's folder",
    )
  params = {"kernel": place("kernel", tensors["linear.weight"].T)}
  if config.use_bias:
    params["bias"] = place("bias", tensors["linear.bias"])
  return params


# ----------------------------------------------------------------------- write


def write_modules(
  folder: str | os.PathLike,
  config: DualEncoderConfig,
  *,
  width: int,
  projection: Params | None = None,
) -> None:
  """Writes the files that make a folder open in sentence-transformers.

  Args:
    folder: that of the transformer.
    config: pooling, projection, prefixes and lengths.
    width: the length of a pooled vector.
    projection: the parameters of the projection, if there is one.
  """
  folder = to_path(folder)
  _write_pooling(folder / "1_Pooling", config, width)
  kinds = {"Transformer": "", "Pooling": "1_Pooling"}
  if projection is not None and config.projection is not None:
    kinds["Dense"] = "2_Dense"
    _write_projection(folder / "2_Dense", config.projection, projection)
  if config.normalize:
    kinds["Normalize"] = f"{len(kinds)}_Normalize"
    (folder / kinds["Normalize"]).mkdir(parents=True, exist_ok=True)
  _write_prompts(folder / PROMPTS_FILE, config)
  _write_lengths(folder / TRANSFORMER_FILE, config)
  modules = [
    {"idx": i, "name": str(i), "path": path, "type": f"{_PACKAGE}.{kind}"}
    for i, (kind, path) in enumerate(kinds.items())
  ]
  write_json(folder / MODULES_FILE, modules)


def _write_pooling(folder: Path, config: DualEncoderConfig, width: int) -> None:
  modes = {name: mode == config.pooling for name, mode in _MODES.items()}
  values = {"word_embedding_dimension": width, **modes, "include_prompt": True}
  write_json(folder / MODULE_FILE, values)


def _write_projection(
  folder: Path, config: ProjectionConfig, params: Params
) -> None:
  kernel = np.asarray(params["kernel"])
  tensors = {"linear.weight": np.ascontiguousarray(kernel.T)}
  if config.use_bias:
    tensors["linear.bias"] = np.asarray(params["bias"])
  (activation,) = (
    name for name, ours in _ACTIVATIONS.items() if ours == config.activation
  )
  values: dict[str, Any] = {
    "in_features": kernel.shape[0],
    "out_features": config.size,
    "bias": config.use_bias,
    "activation_function": f"torch.nn.{activation}",
  }
  write_safetensors(folder / SAFETENSORS_FILE, tensors)
  write_json(folder / MODULE_FILE, values)


def _write_prompts(path: Path, config: DualEncoderConfig) -> None:
  prompts = {
    "query": config.query_prefix,
    "document": config.passage_prefix,
    "passage": config.passage_prefix,
  }
  values = {
    "model_type": "SentenceTransformer",
    "prompts": prompts,
    "default_prompt_name": None,
    "similarity_fn_name": "cosine" if config.normalize else "dot",
  }
  write_json(path, values)


def _write_lengths(path: Path, config: DualEncoderConfig) -> None:
  lengths = {
    "query_length": config.query_length,
    "document_length": config.passage_length,
  }
  longest = max(lengths.values())
  # Older versions refuse these two keys, so they stand only where they matter.
  shorter = {name: n for name, n in lengths.items() if n < longest}
  values = {"max_seq_length": longest, "do_lower_case": False, **shorter}
  write_json(path, values)
