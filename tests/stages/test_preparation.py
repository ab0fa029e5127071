"""Stage `prepare`: the generated collection as ever, and what it refuses."""

import subprocess
import sys

import pytest

from xqg_jax.errors import InputError
from xqg_jax.stages.prepare import prepare
from xqg_jax.xor_mini import make_xor_mini


def test_xor_mini_is_what_its_generator_writes(tmp_path):
  folder = prepare(
    output_dir=str(tmp_path / "prepared"), num_passages=200, vocab_size=600
  )
  assert folder == tmp_path / "prepared"
  make_xor_mini(output_dir=tmp_path / "made", num_passages=200, seed=0)
  for path in (tmp_path / "made").iterdir():
    assert (folder / path.name).read_bytes() == path.read_bytes()
  for name in ("bert_tokenizer", "t5_tokenizer"):
    assert (folder / name / "tokenizer.json").exists()
  files = [p for p in folder.rglob("*") if p.name != ".lock"]
  before = {p: p.stat().st_mtime_ns for p in files}
  prepare(
    output_dir=str(tmp_path / "prepared"), num_passages=200, vocab_size=600
  )
  assert before == {p: p.stat().st_mtime_ns for p in files}


def test_unknown_data_set(tmp_path):
  with pytest.raises(
    InputError, match=r"unknown data set 'xor_tydi/full'; known: xor_mini, .*"
  ):
    prepare(dataset="xor_tydi/full", output_dir=str(tmp_path))


def test_manual_folder_that_is_not_there(tmp_path):
  with pytest.raises(InputError, match=r"nowhere: no such folder"):
    prepare(
      dataset="xor_tydi/retrieve",
      output_dir=str(tmp_path),
      manual_dir=str(tmp_path / "nowhere"),
    )


def test_public_data_sets_need_an_extra(tmp_path, monkeypatch):
  for name in [n for n in sys.modules if n.startswith("xqg_jax.datasets")]:
    monkeypatch.delitem(sys.modules, name)
  monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
  with pytest.raises(InputError, match=r"need .*; pip install 'xqg_jax\[tasks"):
    prepare(dataset="xor_tydi/retrieve", output_dir=str(tmp_path))


def test_stage_is_light():
  code = "import xqg_jax.stages.prepare, sys; print(*sys.modules)"
  modules = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  ).stdout.split()
  assert {"tensorflow", "tensorflow_datasets"}.isdisjoint(modules)
