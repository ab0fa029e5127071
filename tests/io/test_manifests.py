"""Finished folders: sound, damaged, of an earlier version."""

import hashlib
import json

import pytest

from xqg_jax.io.manifests import read_sound_manifest, sum_files
from xqg_jax.io.paths import to_path


@pytest.fixture(params=["local", "bucket"])
def folder(request, tmp_path):
  is_local = request.param == "local"
  folder = to_path(tmp_path if is_local else f"memory://sums{tmp_path}")
  (folder / "runs").mkdir(parents=True)
  for name, text in (
    ("a.txt", "one\n"),
    ("runs/b.trec", "two\n"),
    ("run.json", "{}"),
    ("operative_config.gin", "x = 1\n"),
    (".lock", ""),
  ):
    (folder / name).write_text(text)
  content = {"rows": 2, "files": sum_files(folder)}
  (folder / "manifest.json").write_text(json.dumps(content))
  return folder


def test_sums_are_of_what_a_verb_wrote(folder):
  assert sum_files(folder) == {
    "a.txt": hashlib.sha256(b"one\n").hexdigest(),
    "runs/b.trec": hashlib.sha256(b"two\n").hexdigest(),
  }


def test_a_sound_folder_is_finished(folder, capsys):
  manifest = read_sound_manifest(folder, task="copy")
  assert manifest["rows"] == 2
  (folder / "operative_config.gin").write_text("x = 2\n")
  assert read_sound_manifest(folder, task="copy") == manifest
  assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
  ("name", "content", "told"),
  [
    ("runs/b.trec", "too\n", "runs/b.trec: differs from its checksum"),
    ("a.txt", None, "a.txt: is missing"),
    ("manifest.json", "{", "manifest.json: "),
    ("manifest.json", '{"files": [1]}', "manifest.json: "),
  ],
)
def test_a_damaged_folder_is_not(folder, capsys, name, content, told):
  if content is None:
    (folder / name).unlink()
  else:
    (folder / name).write_text(content)
  assert read_sound_manifest(folder, task="copy") is None
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("xqg: copy: making it again: ")
  assert told in line
  # Nobody takes it for finished any more.
  assert not (folder / "manifest.json").exists()
  assert read_sound_manifest(folder, task="copy") is None
  assert capsys.readouterr().err == ""


def test_all_damaged_files_are_told_of_and_deleted(folder, capsys):
  (folder / "a.txt").write_text("won\n")
  (folder / "runs" / "b.trec").write_text("too\n")
  assert read_sound_manifest(folder, task="copy") is None
  told = capsys.readouterr().err
  assert "a.txt: differs" in told
  assert "b.trec: differs" in told
  assert not (folder / "a.txt").exists()
  assert not (folder / "runs" / "b.trec").exists()
  assert (folder / "run.json").exists()


def test_manifests_without_sums_are_believed(folder):
  """Those that exports of an earlier version have."""
  (folder / "manifest.json").write_text('{"format": "numpy"}')
  (folder / "a.txt").unlink()
  found = read_sound_manifest(folder, task="copy")
  assert found == {"format": "numpy"}
  sums = {"a.txt": None}
  assert read_sound_manifest(folder, task="x", list_files=lambda _: sums)


def test_a_folder_without_manifest_is_not_finished(tmp_path):
  assert read_sound_manifest(tmp_path, task="copy") is None
