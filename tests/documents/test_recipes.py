"""The recipes: every command of their scripts is one that its stage takes."""

import os
import pathlib
import subprocess

import gin
import pytest

from xqg_jax.cli import main
from xqg_jax.cli.config import configure_stage, gin_root
from xqg_jax.io.files import read_json

ROOT = pathlib.Path(__file__).parents[2]
NAMES = sorted(
  path.stem
  for path in (gin_root() / "recipes").glob("*.gin")
  if path.stem not in ("paper", "xquad_e5")
)
# Leaves a command's words in a file instead of running it.
NOTE_DOWN = """#!/bin/bash
printf '%s\\0' "$(basename "$0")" "$@" END >> "$XQG_NOTES"
"""


@pytest.fixture(autouse=True)
def _clear_gin():
  gin.clear_config()
  yield
  gin.clear_config()


def _list_commands(folder, script, *arguments):
  """What a script would run, one list of words a command."""
  for name in ("xqg", "python"):
    path = folder / name
    path.write_text(NOTE_DOWN)
    path.chmod(0o755)
  notes = folder / "notes"
  environment = os.environ | {
    "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
    "XQG_NOTES": str(notes),
  }
  subprocess.run(
    [ROOT / "scripts" / script, *arguments],
    check=True,
    env=environment,
    cwd=folder,
  )
  commands = notes.read_text().split("\0END\0")[:-1]
  return [command.split("\0") for command in commands]


def _configure(words):
  args, bindings = main._parse_arguments(words)
  configure_stage(args.stage, gin_files=args.gin_file, gin_bindings=bindings)
  return args.stage, bindings


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_runs_the_whole_road(tmp_path, name, caplog):
  commands = _list_commands(tmp_path, "reproduce.sh", name, "out")
  assert commands[-1][0] == "python"
  configured = []
  for program, *words in commands[:-1]:
    assert program == "xqg"
    stage, _ = _configure(words)
    configured.append(stage)
    if stage == "train" and f"--gin_file=recipes/{name}.gin" in words:
      task = gin.query_parameter("train.train.mixture_or_task_name")
      assert str(task) == "%MIXTURE_OR_TASK_NAME"
      task = gin.query_parameter("MIXTURE_OR_TASK_NAME/gin.macro.value")
      pairs = gin.query_parameter("GENERATED_PAIRS/gin.macro.value")
      is_generated = task.endswith(("_generated", "_mixed"))
      assert (pairs is not None) == is_generated
      if is_generated:
        sample = "generated_pairs.GeneratedPairs.sample"
        share = 0.28 if task.endswith("_generated") else 0.029
        assert gin.query_parameter(sample) == share
      config = "dual_encoder.DualEncoderConfig"
      for side, length in (("query", 32), ("passage", 128)):
        assert gin.query_parameter(f"{config}.{side}_length") == length
      assert name.endswith(task.removeprefix("xdr_xor_tydi_")) or (
        task in ("xdr_xor_tydi", "xdr_nq")
      )
  assert not caplog.records  # gin would complain of its includes
  num_sets = 5 if name.endswith("_nq") else 4
  assert configured == [
    *(["prepare"] * num_sets),
    *("train", "generate", "train", "encode", "augment"),
    *("index", "search", "index", "search", "evaluate", "report"),
  ]


def test_each_encoder_has_every_row():
  encoders = ("mbert", "xlmr", "e5_base")
  rows = ("xor_tydi", "nq", "generated", "mixed")
  assert sorted(f"{e}_{row}" for e in encoders for row in rows) == NAMES


def test_every_job_of_the_page_is_planned(tmp_path):
  *commands, last = _list_commands(tmp_path, "plan_recipes.sh", "plans")
  configured = [_configure(words) for _, *words in commands]
  assert {stage for stage, _ in configured} == {"plan"}
  planned = {bound["OUTPUT_DIR"] for _, bound in configured}
  rows = read_json(ROOT / "docs/reproduction/plans.json")["rows"]
  assert planned == {
    f"plans/{row['job']}-{row['chips'].replace(':', '-')}"
    for row in rows
    if row["chips"] != "H200"
  }
  assert last[-1] == "--plans=plans"


@pytest.mark.parametrize("pairs", ["pairs.jsonl", "generated"])
def test_rounds_mine_with_the_encoder_of_the_round_before(tmp_path, pairs):
  (tmp_path / "generated").mkdir()
  commands = _list_commands(
    tmp_path,
    "train_rounds.sh",
    *("2", "first", "passages.tsv", pairs, "out"),
    *("--gin.TRAIN_STEPS=10", "--gin_file=encoders/xlmr.gin"),
    "--gin.NUM_NEGATIVES=7",
  )
  for _, *words in commands:
    is_index = words[0] == "index"
    assert ("--gin_file=encoders/xlmr.gin" in words) == (not is_index)
  configured = [_configure(words) for _, *words in commands]
  road = ["encode", "index", "mine-negatives", "train"]
  assert [stage for stage, _ in configured] == [*road, *road, "encode"]
  used = [b["CHECKPOINT_PATH"] for _, b in configured if "CHECKPOINT_PATH" in b]
  rounds = [f"out/round_{number}/encoder" for number in (1, 2)]
  assert used == ["first", "first", rounds[0], rounds[0], rounds[1]]
  # Sums for the last one alone: what is mined with needs none.
  encoded = [b for stage, b in configured if stage == "encode"]
  sums = "None" if pairs.endswith(".jsonl") else pairs
  found = [b.get("GENERATED_QUERIES", "None") for b in encoded]
  assert found == ["None", "None", sums]
  sources = [b for stage, b in configured if stage == "mine-negatives"]
  given = "TRAIN_PAIRS" if pairs.endswith(".jsonl") else "GENERATED_QUERIES"
  assert [b[given] for b in sources] == [pairs, pairs]
  assert [b["NUM_NEGATIVES"] for b in sources] == ["7", "7"]
  trained = [b for stage, b in configured if stage == "train"]
  assert [b["INITIAL_CHECKPOINT_PATH"] for b in trained] == 2 * ["first"]
  assert trained[1]["DATA_DIR"] == "out/round_2/mined"
