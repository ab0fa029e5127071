"""Gin names of version 0.1, and what they are called now."""

import pathlib
import re
from collections.abc import Iterable, Sequence

from xqg_jax.errors import InputError

# Module and name of 0.1 -> the module that has the name now.
_MOVED = {
  "asking.ask": "stages.search_query",
  "augmentation.augment": "stages.augment",
  "demo.run_demo": "demo.demo",
  "dual_encoder_model.DualEncoderModel": "training.dual_encoder_model",
  "encoding.encode": "stages.encode",
  "evaluation.evaluate": "stages.evaluate",
  "exact_search.ExactSettings": "indexes.exact.search",
  "exporting.export": "stages.export",
  "filtering.filter_queries": "stages.filter",
  "generated_pairs.GeneratedPairs": "data.generated_pairs",
  "generation.generate": "stages.generate",
  "index_updating.update_index": "stages.update_index",
  "indexing.build_index": "stages.index",
  "mining.NegativeRules": "training.negative_rules",
  "mining.mine_negatives": "stages.mine_negatives",
  "models.bert_config.BertConfig": "models.bert.config",
  "models.dual_encoder.DualEncoderConfig": "models.dual_encoder.config",
  "models.dual_encoder.ProjectionConfig": "models.dual_encoder.config",
  "models.t5_config.T5Config": "models.t5.config",
  "planning.plan": "stages.plan",
  "pooled_evaluation.pool": "stages.pool",
  "preparation.prepare": "stages.prepare",
  "query_generator_model.QueryGeneratorModel": "training.query_generator_model",
  "ranking_losses.RankingObjective": "training.losses.ranking",
  "reporting.report": "stages.report",
  "searching.search": "stages.search",
  "serving.serve": "stages.serve",
  "store_export.export_store": "stages.store_export",
  "store_import.import_vectors": "stages.store_import",
  "store_tools.describe_store": "stages.store_info",
  "store_tools.verify_store": "stages.store_verify",
  "submission.submit": "stages.submit",
  "training.train": "stages.train",
  "tuning.tune_alpha": "stages.tune_alpha",
}
# Settings of 0.1 that are gone, and what to do instead.
_GONE = dict.fromkeys(
  ("REQUESTS_PER_SECOND", "serve.serve.requests_per_second"),
  "leave it out; a proxy before the search page can limit requests",
)
_SETTING = re.compile(r"\s*([\w.]+)\s*=")
_IMPORT = re.compile(
  r"\s*from\s+xqg_jax((?:\.models)?)\s+import\s+(\w+)\s*(#.*)?$"
)


def check_moved_names(
  paths: Sequence[pathlib.Path], bindings: Iterable[str]
) -> None:
  """Refuses names of version 0.1 in gin files and bindings.

  Args:
    paths: gin files that the user gave.
    bindings: names given as `--gin.NAME`.

  Raises:
    InputError: a name that has moved or is gone; says the file, the line and
      the new name.
  """
  for path in paths:
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
      if match := _IMPORT.match(line):
        module = f"{match[1].lstrip('.')}.{match[2]}".lstrip(".")
        _refuse(f"{module}.", f"{path}:{number}", is_import=True)
      if match := _SETTING.match(line):
        _refuse_gone(match[1], f"{path}:{number}")
  for name in bindings:
    _refuse(name, f"--gin.{name}", is_import=False)
    _refuse_gone(name, f"--gin.{name}")


def _refuse_gone(name: str, where: str) -> None:
  if name in _GONE:
    raise InputError(f"{name} is gone", where=where, mend=_GONE[name])


def _refuse(old: str, where: str, *, is_import: bool) -> None:
  for name, module in _MOVED.items():
    is_moved = name.startswith(old) if is_import else _is_of(old, name)
    if not is_moved:
      continue
    package, _, base = module.rpartition(".")
    new = f"{base}.{name.rpartition('.')[2]}"
    raise InputError(
      f"{name} has moved",
      where=where,
      mend=f"write `from xqg_jax.{package} import {base}`, then {new}",
    )


def _is_of(binding: str, name: str) -> bool:
  """Whether a binding such as `encoding.encode.k` is one of `name`.

  Shipped files import the configurations of models under their old names.
  """
  module = name.partition(".")[0]
  has_its_name = _MOVED[name].endswith(f".{module}") or module == "models"
  return not has_its_name and f"{binding}.".startswith(f"{name}.")
