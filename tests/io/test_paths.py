"""Paths as users write them, tested one form at a time."""

import os

import pytest

from xqg_jax.errors import InputError
from xqg_jax.io.claims import claim_output_dir
from xqg_jax.io.locations import Location
from xqg_jax.io.paths import absolute_path, to_path


def test_home_is_expanded_and_a_folder_named_like_it_is_not(
  monkeypatch, tmp_path
):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("HOME", "/home/ana")
  assert str(to_path("~/store")) == "/home/ana/store"
  assert str(to_path("~")) == "/home/ana"
  assert to_path(to_path("./~/store")) == tmp_path / "~" / "store"
  assert str(to_path("store~")) == "store~"
  assert to_path("~nobody-here/s") == tmp_path / "~nobody-here" / "s"
  assert Location.of("~/store").path == "/home/ana/store"


def test_two_dots_mean_what_they_mean_to_the_system(tmp_path, monkeypatch):
  (tmp_path / "far" / "inner").mkdir(parents=True)
  (tmp_path / "work").mkdir()
  (tmp_path / "work" / "link").symlink_to(tmp_path / "far" / "inner")
  monkeypatch.chdir(tmp_path / "work")
  root = os.path.realpath(tmp_path)
  assert str(absolute_path("../store")) == f"{root}/store"
  assert str(absolute_path("link/../store")) == f"{root}/far/store"
  assert Location.of("../store").kvstore() == {
    "driver": "file",
    "path": f"{root}/store/",
  }


def test_a_location_with_two_dots_is_written_and_read(tmp_path, monkeypatch):
  (tmp_path / "work").mkdir()
  monkeypatch.chdir(tmp_path / "work")
  (Location.of("../store") / "a.json").write_json({"a": 1})
  assert (tmp_path / "store" / "a.json").is_file()
  assert (Location.of("../store") / "a.json").read_json() == {"a": 1}


@pytest.mark.parametrize("url", ["gs:/bucket/x", "ftp://host/x"])
def test_no_url_becomes_a_local_folder(url, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(InputError, match=url):
    claim_output_dir(url, stage="index", arguments={})
  assert list(tmp_path.iterdir()) == []


def test_a_file_url_is_its_path():
  assert str(to_path("file:///data/mt5")) == "/data/mt5"
  assert Location.of("file:///data/mt5").path == "/data/mt5"
