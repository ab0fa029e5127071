"""Light imports, public names, README and CI in step."""

import collections
import pathlib
import re
import subprocess
import sys

import pytest

import xqg_jax

ROOT = pathlib.Path(__file__).parents[2]
HEAVY = ("tensorflow", "seqio", "t5x", "scann", "gin", "torch", "transformers")


def _modules_loaded_by(code):
  script = f"{code}\nimport sys; print(*sys.modules)"
  result = subprocess.run(
    [sys.executable, "-c", script], capture_output=True, text=True, check=True
  )
  return {name.partition(".")[0] for name in result.stdout.split()}


def test_import_is_light():
  loaded = _modules_loaded_by("import xqg_jax")
  assert loaded.isdisjoint({*HEAVY, "jax", "numpy"})


def test_the_search_road_needs_no_tensorflow():
  code = "import xqg_jax\nfor n in ('encode', 'augment', 'search', 'evaluate'):"
  loaded = _modules_loaded_by(code + "\n  getattr(xqg_jax, n)")
  assert loaded.isdisjoint({"tensorflow", "seqio", "t5x", "gin", "torch"})


@pytest.mark.parametrize("name", xqg_jax.__all__)
def test_public_names_resolve_and_are_documented(name):
  assert getattr(xqg_jax, name).__doc__


def test_unknown_name_is_an_attribute_error():
  with pytest.raises(AttributeError, match="no attribute 'fuse'"):
    _ = xqg_jax.fuse


def test_every_folder_stands_in_the_readme():
  text = (ROOT / "README.md").read_text()
  table = text.partition("## Folders\n")[2].partition("\n## ")[0]
  package = {
    path.name for path in (ROOT / "xqg_jax").iterdir() if path.is_dir()
  }
  package -= {"tasks", "__pycache__"}
  above = {"tasks", "gin_configs", "scripts", "benchmarks", "docs", "tests"}
  assert sorted((package | above) - set(re.findall(r"(\w+)/", table))) == []


def test_no_module_is_long():
  lines = {
    path: len(path.read_text(encoding="utf-8").splitlines())
    for path in (ROOT / "xqg_jax").rglob("*.py")
  }
  assert [path for path, count in lines.items() if count > 400] == []
  assert len(lines) > 200


def test_no_folder_but_that_of_the_verbs_is_full():
  counts = collections.Counter(
    path.parent for path in (ROOT / "xqg_jax").rglob("*.py")
  )
  # stages/ has one file for each verb.
  del counts[ROOT / "xqg_jax" / "stages"]
  assert [folder for folder, count in counts.items() if count > 25] == []


def test_the_readme_is_short():
  assert len((ROOT / "README.md").read_text().splitlines()) <= 200


def test_every_file_of_the_package_is_installed(tmp_path):
  command = ["setup.py", "-q", "build_py", "--build-lib", tmp_path]
  subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
  ours = _list_files(ROOT / "xqg_jax") - {"tasks"}  # a link to the next
  for folder in ("tasks", "gin_configs"):
    ours |= {f"{folder}/{name}" for name in _list_files(ROOT / folder)}
  assert {"tasks/xor_tydi.py", "serving/page/page.js"} <= ours
  assert sorted(ours - _list_files(tmp_path / "xqg_jax")) == []


def _list_files(folder):
  names = {p.relative_to(folder).as_posix() for p in folder.rglob("*.*")}
  return {name for name in names if not name.endswith(".pyc")}


def test_ci_runs_the_test_command_of_the_readme():
  readme = (ROOT / "README.md").read_text()
  block = readme.partition("<!-- test -->")[2].split("```")[1]
  assert block.strip().splitlines()[-1].startswith("python3 -m venv")
  assert "<!-- test -->" in (ROOT / ".ci" / "run").read_text()
