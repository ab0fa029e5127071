"""Provenance of evaluations: folders, configs, fingerprints."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from xqg_jax.augmentation.views import ViewRecord
from xqg_jax.evaluation.results import Evaluation, read_inputs, read_manifest
from xqg_jax.evaluation.search_folder import SearchManifest
from xqg_jax.io.claims import (
  MANIFEST_FILE,
  OPERATIVE_CONFIG,
  RUN_FILE,
  RunClaim,
)
from xqg_jax.io.files import read_json
from xqg_jax.io.locations import find_location
from xqg_jax.io.paths import Path, to_path


def find_folders(
  loaded: Sequence[Evaluation], others: Sequence[str | os.PathLike]
) -> list[Path]:
  """The folders that led here, as far as they still exist.

  Args:
    loaded: the evaluations.
    others: folders that no evaluation names; files are passed over.
  """
  folders = [evaluation.folder for evaluation in loaded]
  for evaluation in loaded:
    # Pooled evaluations were made alike: the first shows how.
    inputs = read_inputs(evaluation)[0]
    folders.append(to_path(inputs["questions"]["path"]).parent)
    for run in inputs["runs"].values():
      search = to_path(run["path"]).parent
      if (search / MANIFEST_FILE).is_file():
        folders += [search, *_follow(search)]
  folders += [to_path(folder) for folder in others]
  found = (folder.resolve() for folder in folders if folder.is_dir())
  return list(dict.fromkeys(found))


def _follow(search: Path) -> list[Path]:
  """Index, view and store behind a search folder."""
  manifest = read_json(search / MANIFEST_FILE, SearchManifest)
  found = [
    to_path(find_location(manifest[key], search))
    for key in ("index", "embeddings")
    if manifest.get(key)
  ]
  view = found[-1] / "view.json" if found else None
  if view and view.is_file():
    store = find_location(read_json(view, ViewRecord)["store"], view.parent)
    found.append(to_path(store))
  return found


def _describe_config(folder: Path) -> dict[str, Any] | None:
  run_file, gin_file = folder / RUN_FILE, folder / OPERATIVE_CONFIG
  run = read_json(run_file, RunClaim) if run_file.is_file() else {}
  has_gin = gin_file.is_file()
  if not (run or has_gin):
    return None
  stage = run.get("stage")
  return {
    "folder": str(folder),
    "stage": stage,
    "command": f"xqg {stage} --gin_file={gin_file}" if has_gin else None,
    "gin": gin_file.read_text(encoding="utf-8") if has_gin else None,
    "arguments": json.dumps(
      run.get("arguments", {}), indent=2, ensure_ascii=False
    ),
  }


def describe_configs(
  folders: Iterable[Path], road: Iterable[str]
) -> list[dict[str, Any]]:
  """The configs of the folders that have one.

  Args:
    folders: of finished stages.
    road: names of the stages, in the order of the configs; others come first.
  """
  places = {stage: place for place, stage in enumerate(road)}
  found = filter(None, map(_describe_config, folders))
  return sorted(found, key=lambda config: places.get(config["stage"], -1))


def list_fingerprints(
  loaded: Sequence[Evaluation], others: Sequence[str | os.PathLike]
) -> list[tuple[str, str, str]]:
  """(where it was found, what it is of, value) of every fingerprint."""
  rows = []
  for evaluation in loaded:
    manifest = read_manifest(evaluation)
    for part in ("inputs", "searches"):
      rows += [
        (evaluation.folder.name, name, value)
        for name, value in _walk(manifest.get(part, {}))
      ]
  for folder in map(to_path, others):
    if (folder / MANIFEST_FILE).is_file():
      manifest = read_json(folder / MANIFEST_FILE, dict[str, Any])
      rows += [(folder.name, name, value) for name, value in _walk(manifest)]
  return rows


def _walk(value: Any, name: str = "") -> list[tuple[str, str]]:
  """Leaves of nested JSON, under their path."""
  if isinstance(value, Mapping):
    items = value.items()
  elif isinstance(value, list):
    items = enumerate(value, start=1)
  else:
    return [] if value is None else [(name, str(value))]
  return [
    leaf
    for key, child in items
    for leaf in _walk(child, f"{name} · {key}" if name else str(key))
  ]
