"""Paths in buckets: names, contents, claims, leases and local copies."""

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.helpers.tiny_collection import make_tokenizer
from xqg_jax.errors import InputError
from xqg_jax.io import leases
from xqg_jax.io.buckets import BucketPath
from xqg_jax.io.claims import claim_output_dir, lock_folder
from xqg_jax.io.files import (
  atomic_path,
  read_json,
  read_lines,
  sha256_file,
  write_json,
)
from xqg_jax.io.growing_files import GrowingFiles
from xqg_jax.io.local_copies import copy_here
from xqg_jax.io.locations import find_location, relate_location
from xqg_jax.text.tokenizer import load_tokenizer


@pytest.fixture
def bucket(tmp_path):
  return BucketPath(f"memory://{tmp_path.name}")


def _names(folder):
  return sorted(str(path.relative_to(folder)) for path in folder.walk_files())


def test_names_are_those_of_pathlib():
  path = BucketPath("gs://bucket/models//e5/../mt5/run.tar.gz")
  assert str(path) == "gs://bucket/models/mt5/run.tar.gz"
  assert (path.name, path.stem, path.suffix) == (
    "run.tar.gz",
    "run.tar",
    ".gz",
  )
  assert str(path.parent) == "gs://bucket/models/mt5"
  assert str(path.with_name("x")) == "gs://bucket/models/mt5/x"
  assert str(path.relative_to(path.parent.parent)) == "mt5/run.tar.gz"
  assert BucketPath("gs://b/a/") == BucketPath("gs://b/a")


def test_what_wants_a_local_path_refuses_a_bucket(bucket):
  with pytest.raises(InputError, match="give a local path"):
    open(bucket / "x", "w")  # noqa: SIM115


def test_files_and_folders(bucket):
  assert not bucket.exists()
  (bucket / "a" / "b.txt").write_text("x\ny\n")
  (bucket / "c.json").write_bytes(b"{}")
  assert [path.name for path in bucket.iterdir()] == ["a", "c.json"]
  assert bucket.is_dir()
  assert (bucket / "a").is_dir()
  assert not (bucket / "a").is_file()
  assert (bucket / "c.json").is_file()
  assert _names(bucket) == ["a/b.txt", "c.json"]
  assert [p.name for p in bucket.glob("*.json")] == ["c.json"]
  lines = [line for _, line in read_lines(bucket / "a" / "b.txt")]
  assert lines == ["x", "y"]
  (bucket / "c.json").unlink()
  (bucket / "a").remove_tree()
  assert not bucket.exists()
  with pytest.raises(InputError, match="no such file"):
    read_json(bucket / "c.json")


@pytest.mark.parametrize("size", [0, 1, 2**24, 2**24 + 1])
def test_a_long_file_is_read_part_by_part(bucket, size):
  content = bytes(i % 251 for i in range(1000)) * (size // 1000 + 1)
  content = content[:size]
  (bucket / "x").write_bytes(content)
  assert sha256_file(bucket / "x") == hashlib.sha256(content).hexdigest()


def test_a_file_that_changes_while_it_is_read_is_refused(bucket):
  (bucket / "x").write_bytes(bytes(2**24 + 5))
  with (bucket / "x").open("rb") as file:
    file.read(2**24)
    (bucket / "x").write_bytes(bytes(2**24 + 5))
    with pytest.raises(InputError, match="has changed while it was read"):
      file.read()


def test_a_folder_is_written_whole_or_not_at_all(bucket):
  with pytest.raises(KeyError), atomic_path(bucket / "out") as partial:  # noqa: PT012
    partial.mkdir()
    (partial / "a").write_text("a")
    raise KeyError
  assert not bucket.exists()


def test_the_manifest_of_a_folder_is_written_last(bucket, monkeypatch):
  order, write = [], BucketPath.write_bytes

  def write_and_tell(path, content):
    order.append(path.name)
    write(path, content)

  monkeypatch.setattr(BucketPath, "write_bytes", write_and_tell)
  with atomic_path(bucket / "out") as partial:
    partial.mkdir()
    for name in ("manifest.json", "a", "z"):
      (partial / name).write_text("")
  assert order == ["a", "z", "manifest.json"]


def test_of_many_claims_one_wins(bucket):
  def claim(number):
    try:
      claim_output_dir(bucket, stage="index", arguments={"number": number})
    except InputError as error:
      return str(error)
    return number

  with ThreadPoolExecutor(8) as pool:
    found = list(pool.map(claim, range(8)))
  (winner,) = (value for value in found if isinstance(value, int))
  assert read_json(bucket / "run.json")["arguments"] == {"number": winner}
  assert claim(winner) == winner
  assert "another number" in claim(8)
  (bucket.parent / "other" / "file").write_text("")
  with pytest.raises(InputError, match="not empty"):
    claim_output_dir(bucket.parent / "other", stage="index", arguments={})


@pytest.fixture
def short_leases(monkeypatch):
  monkeypatch.setattr(leases, "RENEWED_AFTER", 0.05)
  monkeypatch.setattr(leases, "DEAD_AFTER", 0.5)


@pytest.mark.usefixtures("short_leases")
def test_a_lease_keeps_others_out_while_its_holder_lives(bucket):
  with lock_folder(bucket):
    with pytest.raises(InputError, match="another process is writing"):
      with lock_folder(bucket):
        pass
    assert (bucket / ".lock").exists()
  assert not (bucket / ".lock").exists()
  with pytest.raises(KeyError), lock_folder(bucket):
    raise KeyError
  with lock_folder(bucket):
    pass


@pytest.mark.usefixtures("short_leases")
def test_the_lease_of_a_killed_process_is_taken_over_by_one(bucket):
  write_json(bucket / ".lock", {"holder": "host:1:x", "renewed": 3})
  inside, rest = [], threading.Barrier(2)

  def take(name):
    rest.wait()
    try:
      with lock_folder(bucket):
        inside.append(name)
        threading.Event().wait(1)
    except InputError:
      return

  threads = [threading.Thread(target=take, args=[name]) for name in "ab"]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(inside) == 1


def test_a_copy_follows_its_original(bucket, tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  (bucket / "m" / "a").write_text("1")
  (bucket / "m" / "b").write_text("2")
  copy = copy_here(bucket / "m")
  assert {p.name: p.read_text() for p in copy.iterdir()} == {"a": "1", "b": "2"}
  first = (copy / "a").stat().st_ino
  (bucket / "m" / "b").unlink()
  (bucket / "m" / "c" / "d").write_text("3")
  assert copy_here(bucket / "m") == copy
  assert (copy / "a").stat().st_ino == first
  assert not (copy / "b").exists()
  assert (copy / "c" / "d").read_text() == "3"
  (bucket / "m" / "a").write_text("4")
  assert copy_here(bucket / "m" / "a").read_text() == "4"
  assert copy_here(tmp_path) == tmp_path
  with pytest.raises(InputError, match="no such file or folder"):
    copy_here(bucket / "absent")


def test_growing_files_begin_with_what_is_there(bucket):
  (bucket / "rows").write_text("1\n")
  (bucket / "events" / "old").write_text("x")
  files = GrowingFiles(bucket, ["rows", "events"])
  with (files.folder / "rows").open("a") as file:
    file.write("2\n")
  (files.folder / "events" / "old").unlink()
  (files.folder / "events" / "new").write_text("y")
  files.publish()
  assert (bucket / "rows").read_text() == "1\n2\n"
  assert _names(bucket) == ["events/new", "rows"]
  files.close()
  assert not files.folder.exists()


@pytest.mark.parametrize(
  ("there", "here", "noted"),
  [
    ("gs://b/store", "gs://b/views/mean", "../../store"),
    ("gs://b/store", "gs://c/view", "gs://b/store"),
    ("s3://b/store", "gs://b/view", "s3://b/store"),
    ("/data/store", "gs://b/view", "/data/store"),
    ("gs://b/store", "/data/view", "gs://b/store"),
    ("/data/store", "/data/view", "../store"),
  ],
)
def test_a_folder_is_found_from_where_it_was_noted(there, here, noted):
  assert relate_location(there, here) == noted
  assert str(find_location(noted, here)) == there


def test_a_tokenizer_in_a_bucket_is_loaded(bucket, tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  tokenizer = make_tokenizer("bert")
  tokenizer.save(bucket / "model")
  (bucket / "model" / "model.safetensors").write_text("large")
  found = load_tokenizer(bucket / "model")
  assert found.fingerprint == tokenizer.fingerprint
  assert not any(tmp_path.rglob("*.safetensors"))
