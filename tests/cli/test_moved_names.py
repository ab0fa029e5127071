"""Names of version 0.1 in gin files: one line with the new name."""

import importlib

import pytest

from xqg_jax.cli import moved_names
from xqg_jax.cli.moved_names import check_moved_names
from xqg_jax.errors import InputError


def check_file(folder, *lines):
  path = folder / "mine.gin"
  path.write_text("\n".join(lines))
  check_moved_names([path], [])


def test_an_old_import_names_file_line_and_the_new_import(tmp_path):
  with pytest.raises(InputError) as caught:
    check_file(tmp_path, "# mine", "from xqg_jax import encoding")
  assert str(caught.value) == (
    f"{tmp_path}/mine.gin:2: encoding.encode has moved; write `from "
    "xqg_jax.stages import encode`, then encode.encode"
  )


def test_an_old_binding_names_the_new_one():
  with pytest.raises(InputError, match=r"then encode\.encode$") as caught:
    check_moved_names([], ["encoding.encode.shard_size"])
  assert str(caught.value).startswith("--gin.encoding.encode.shard_size: ")


def test_old_models_are_told_apart_from_packages(tmp_path):
  with pytest.raises(InputError, match=r"xqg_jax\.models\.t5 import config"):
    check_file(tmp_path, "from xqg_jax.models import t5_config")


def test_settings_that_are_gone_are_told(tmp_path):
  with pytest.raises(InputError, match=r"mine\.gin:1: .* is gone"):
    check_file(tmp_path, "REQUESTS_PER_SECOND = 5.0")
  with pytest.raises(InputError, match=r"^--gin\.REQUESTS_PER_SECOND: "):
    check_moved_names([], ["REQUESTS_PER_SECOND"])
  check_file(tmp_path, "# REQUESTS_PER_SECOND = 5.0", "ANSWER_SECONDS = 1.0")


def test_names_that_hold_pass(tmp_path):
  check_file(
    tmp_path,
    "from xqg_jax.stages import encode",
    "from xqg_jax.models.dual_encoder import config as dual_encoder",
    "from xqg_jax import tasks",
  )
  check_moved_names(
    [],
    [
      "encode.encode.shard_size",
      "dual_encoder.DualEncoderConfig.pooling",
      "dual_encoder_model.DualEncoderModel.num_negatives",
      "PASSAGES",
    ],
  )


@pytest.mark.parametrize(("old", "module"), moved_names._MOVED.items())
def test_every_new_name_is_there(old, module):
  found = importlib.import_module(f"xqg_jax.{module}")
  assert hasattr(found, old.rpartition(".")[2])
