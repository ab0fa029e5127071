"""Values of the command line: what is gin, and what is text."""

import types

import pytest

from xqg_jax.cli.config import run_file
from xqg_jax.cli.values import read_types, to_gin
from xqg_jax.errors import InputError
from xqg_jax.stages import STAGES

PATH = {str, types.NoneType}
REQUIRED_PATH = {str}


@pytest.mark.parametrize(
  "value",
  [
    "2024-11-29",
    "3rd_run",
    "007",
    "2024",
    "0.1",
    "1e5",
    "1_000",
    "@scratch/x",
    "%d",
    "True",
    "[1]",
    "{}",
    "0.tsv",
    "it's",
    "a\\b",
    "((((",
  ],
)
def test_paths_are_text_whatever_they_look_like(value):
  assert to_gin("OUTPUT_DIR", value, PATH, ["MODEL_DIR"]) == repr(value)


def test_what_is_written_for_gin_stays():
  for value in ("'2024'", '"a b"', " 'x' ", "%MODEL_DIR", "None"):
    assert to_gin("OUTPUT_DIR", value, PATH, ["MODEL_DIR"]) == value
  assert to_gin("OUTPUT_DIR", "None", REQUIRED_PATH, []) == "'None'"
  for value in ("0.1", "('a', 'b')", "{'r': 'x'}", "@a.B()", "%X", "[1, 2,]"):
    assert to_gin("ENCODER", value, (), []) == value


@pytest.mark.parametrize("value", ["3rd", "2024-11-29", "0,1", "a.tsv", "1 2"])
def test_the_rest_is_text_from_end_to_end(value):
  assert to_gin("RUNS", value, (), []) == repr(value)


@pytest.mark.parametrize(
  ("value", "allowed", "message"),
  [
    ("2k", {int}, "--gin.TRAIN_STEPS: '2k' is no whole number; write it in"),
    ("0,1", {float}, "--gin.TRAIN_STEPS: '0,1' is no number; write it in"),
    ("yes", {bool}, "--gin.TRAIN_STEPS: 'yes' is no True or False; write Tr"),
    ("abc", {int, types.NoneType}, "--gin.TRAIN_STEPS: 'abc' is no whole"),
  ],
)
def test_text_for_a_number(value, allowed, message):
  with pytest.raises(InputError) as error:
    to_gin("TRAIN_STEPS", value, allowed, [])
  assert str(error.value).startswith(message)


def test_every_stage_declares_where_it_writes():
  for verb, stage in STAGES.items():
    declared = read_types(run_file(verb).read_text(), stage.load())
    for name in {"OUTPUT_DIR", "MODEL_DIR"} & declared.keys():
      assert str in declared[name], verb
  encode = read_types(run_file("encode").read_text(), STAGES["encode"].load())
  assert encode["SHARD_SIZE"] == {int}
  assert str in encode["PASSAGES"]
  assert str in encode["DTYPE"]
