"""Pooling and prompts in the files of sentence-transformers."""

import os
import pathlib
from typing import Any

from xqg_jax.errors import InputError
from xqg_jax.files import read_json, write_json
from xqg_jax.models.dual_encoder import DualEncoderConfig

MODULES_FILE = "modules.json"
PROMPTS_FILE = "config_sentence_transformers.json"
_MODES = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}
_PACKAGE = "sentence_transformers.models"


def read_pooling(folder: str | os.PathLike) -> DualEncoderConfig | None:
  """Pooling, normalisation and prompts of a sentence-transformers folder.

  Args:
    folder: with `modules.json`; its prompts named `query` and `passage` (or
      `document`) become the prefixes.

  Returns:
    None when the folder has no `modules.json`.

  Raises:
    InputError: a module or a pooling that we lack.
  """
  folder = pathlib.Path(folder)
  if not (folder / MODULES_FILE).exists():
    return None
  kinds = {}
  for module in read_json(folder / MODULES_FILE):
    kinds[module["type"].rsplit(".", 1)[-1]] = module.get("path", "")
  other = kinds.keys() - {"Transformer", "Pooling", "Normalize"}
  if other or "Pooling" not in kinds:
    raise InputError(
      f"the modules are {', '.join(kinds)}",
      where=folder / MODULES_FILE,
      mend="dual encoders here are Transformer, Pooling and maybe Normalize",
    )
  return DualEncoderConfig(
    pooling=_read_mode(folder / kinds["Pooling"] / "config.json"),
    normalize="Normalize" in kinds,
    **_read_prefixes(folder / PROMPTS_FILE),
  )


def _read_mode(path: pathlib.Path) -> str:
  values = read_json(path)
  chosen = [
    name
    for name, value in values.items()
    if name.startswith("pooling_mode_") and value is True
  ]
  modes = [_MODES.get(name, name) for name in chosen]
  modes = modes or [values.get("pooling_mode")]
  if len(modes) != 1 or modes[0] not in _MODES.values():
    raise InputError(
      f"the pooling is {' and '.join(map(str, modes))}",
      where=path,
      mend="dual encoders here pool by cls or by mean",
    )
  return modes[0]


def _read_prefixes(path: pathlib.Path) -> dict[str, str]:
  prompts = (read_json(path).get("prompts") or {}) if path.exists() else {}
  passage = prompts.get("passage") or prompts.get("document")
  return {
    "query_prefix": prompts.get("query") or "",
    "passage_prefix": passage or "",
  }


def write_pooling(
  folder: str | os.PathLike, config: DualEncoderConfig, *, dim: int
) -> None:
  """Writes the files that make a folder open in sentence-transformers."""
  folder = pathlib.Path(folder)
  modules: list[dict[str, Any]] = [
    {"path": "", "type": f"{_PACKAGE}.Transformer"},
    {"path": "1_Pooling", "type": f"{_PACKAGE}.Pooling"},
  ]
  if config.normalize:
    modules.append({"path": "2_Normalize", "type": f"{_PACKAGE}.Normalize"})
    (folder / "2_Normalize").mkdir(parents=True, exist_ok=True)
  modes = {name: mode == config.pooling for name, mode in _MODES.items()}
  write_json(
    folder / "1_Pooling" / "config.json",
    {"word_embedding_dimension": dim, **modes},
  )
  write_json(
    folder / PROMPTS_FILE,
    {
      "prompts": {
        "query": config.query_prefix,
        "passage": config.passage_prefix,
        "document": config.passage_prefix,
      },
      "similarity_fn_name": "cosine" if config.normalize else "dot",
    },
  )
  write_json(
    folder / "sentence_bert_config.json",
    {"max_seq_length": config.passage_length, "do_lower_case": False},
  )
  numbered = [
    {"idx": index, "name": str(index), **module}
    for index, module in enumerate(modules)
  ]
  write_json(folder / MODULES_FILE, numbered)
