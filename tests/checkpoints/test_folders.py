"""Where a model's folder is found: paths, steps, and the hub's cache."""

import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests.helpers import tiny_dual_encoder
from xqg_jax import checkpoints
from xqg_jax.checkpoints.folders import find_folder
from xqg_jax.errors import InputError
from xqg_jax.io.buckets import BucketPath
from xqg_jax.stages.export import export

NAME = "somebody/tiny-encoder"


def _export(folder):
  encoder = tiny_dual_encoder.make_encoder()
  checkpoints.export_dual_encoder(folder, encoder)
  return encoder


def _put_in_cache(cache: pathlib.Path, name: str, folder: pathlib.Path) -> None:
  """Lays a model out as huggingface_hub's cache does after a download."""
  repository = cache / f"models--{name.replace('/', '--')}"
  revision = "0123456789abcdef0123456789abcdef01234567"
  shutil.copytree(folder, repository / "snapshots" / revision)
  (repository / "refs").mkdir()
  (repository / "refs" / "main").write_text(revision)


@pytest.mark.slow
def test_a_hub_name_is_found_in_the_cache_without_network(tmp_path):
  encoder = _export(tmp_path / "model")
  _put_in_cache(tmp_path / "cache", NAME, tmp_path / "model")
  load = (
    "import sys; from xqg_jax.checkpoints import load_dual_encoder;"
    "print(load_dual_encoder(sys.argv[1]).fingerprint)"
  )
  environment = {
    **os.environ,
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_CACHE": str(tmp_path / "cache"),
  }
  done, missing = (
    subprocess.run(
      [sys.executable, "-c", load, name],
      capture_output=True,
      text=True,
      env=environment,
      cwd=tmp_path,
    )
    for name in (NAME, f"{NAME}-2")
  )
  assert done.stdout.split() == [encoder.fingerprint], done.stderr
  last = missing.stderr.strip().splitlines()[-1]
  assert f"{NAME}-2: not found locally or on the hub" in last


@pytest.fixture
def bucket(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  return BucketPath(f"memory://{tmp_path.name}")


def test_a_damaged_export_is_told_of_and_made_again(tmp_path, capsys):
  _export(tmp_path / "model")
  arguments = {
    "checkpoint_path": tmp_path / "model",
    "output_dir": tmp_path / "out",
  }
  folder = export(**arguments)
  before = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
  (folder / "config.json").write_text("{}")
  export(**arguments)
  after = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
  assert after == before
  assert "export: making it again: " in capsys.readouterr().err


def _mirror(folder):
  return checkpoints.load_dual_encoder(str(folder)).fingerprint


def test_a_model_in_a_bucket_is_copied_once(tmp_path, bucket):
  encoder = _export(tmp_path / "model")
  (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"not wanted")
  bucket.upload(tmp_path)
  assert _mirror(bucket / "model") == encoder.fingerprint
  (weights,) = _find_copies(tmp_path, "model.safetensors")
  assert not (weights.parent / "pytorch_model.bin").exists()
  # An equal copy stays; a file that changed is copied again.
  first = weights.stat().st_ino
  assert _mirror(bucket / "model") == encoder.fingerprint
  assert weights.stat().st_ino == first
  other = tiny_dual_encoder.make_encoder(seed=1)
  checkpoints.export_dual_encoder(bucket / "model", other)
  assert _mirror(bucket / "model") == other.fingerprint


def _find_copies(tmp_path, name):
  return [
    path
    for path in (tmp_path / "cache").rglob(name)
    if "generations" not in path.parts
  ]


def test_the_newest_step_in_a_bucket_is_copied(tmp_path, bucket):
  tiny_dual_encoder.write_checkpoint(bucket / "run")
  other = tiny_dual_encoder.make_encoder(seed=1)
  checkpoints.save_params(bucket / "run", 12, other.params)
  assert _mirror(bucket / "run") == other.fingerprint
  copied = {path.name for path in _find_copies(tmp_path, "checkpoint_*")}
  assert copied == {"checkpoint_12"}
  first = tiny_dual_encoder.make_encoder()
  assert _mirror(bucket / "run" / "checkpoint_1") == first.fingerprint


def test_what_a_bucket_lacks_is_an_input_error(bucket):
  with pytest.raises(InputError, match=r"cannot be read \(.*check the path"):
    _mirror(bucket / "nothing")
  (bucket / "empty" / "notes.txt").write_text("")
  with pytest.raises(InputError, match=r"no config\.json"):
    _mirror(bucket / "empty")


def test_files_have_urls_too(tmp_path):
  _export(tmp_path / "model")
  assert find_folder(f"file://{tmp_path}/model") == (tmp_path / "model", None)
  with pytest.raises(InputError, match="unknown kind of bucket"):
    find_folder("ftp://somewhere/model")


def test_a_folder_wins_over_a_name_of_the_hub(tmp_path, monkeypatch):
  _export(tmp_path / "somebody" / "tiny-encoder")
  monkeypatch.chdir(tmp_path)
  folder, step = find_folder(NAME)
  assert folder.resolve() == (tmp_path / NAME).resolve()
  assert step is None


def test_a_step_and_its_model_dir_are_the_same_model(tmp_path):
  encoder = tiny_dual_encoder.make_encoder()
  tiny_dual_encoder.write_checkpoint(tmp_path)
  (step,) = tmp_path.glob("checkpoint_*")
  assert find_folder(tmp_path)[1] == step
  assert find_folder(step) == (tmp_path, step)
  loaded = checkpoints.load_dual_encoder(step)
  jax.tree.map(np.testing.assert_array_equal, loaded.params, encoder.params)


@pytest.mark.parametrize("name", ["a/b/c", "no such name", ""])
def test_what_is_neither_folder_nor_name_is_an_input_error(name):
  with pytest.raises(InputError, match=r"no such folder|no config\.json"):
    find_folder(name)
