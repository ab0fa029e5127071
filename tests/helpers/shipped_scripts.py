"""The scripts of `scripts/`, loaded and run in this process."""

import importlib.util
import pathlib
import shutil
import sys

from xqg_jax.io.files import write_json

ROOT = pathlib.Path(__file__).parents[2]


def load_script(name):
  """The module of a script."""
  path = ROOT / "scripts" / f"{name}.py"
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def run_script(monkeypatch, name, *arguments):
  """Runs it with the arguments of a command line."""
  monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
  load_script(name).main()


def write_reproduction(folder, name, figures):
  """The page of claims with one file of its figures replaced."""
  script = load_script("write_reproduction")
  shutil.copytree(ROOT / "docs" / "reproduction", folder / "reproduction")
  found = script.collect_claims(figures)
  write_json(folder / "reproduction" / f"{name}.json", found)
  return script.write_page(folder)
