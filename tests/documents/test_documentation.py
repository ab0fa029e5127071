"""Every code block of README and docs: run, or configured for its stage."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import gin
import jax
import numpy as np
import pytest

from tests.helpers.documentation import PAGES, ROOT, find_xqg, read_blocks
from xqg_jax import stages
from xqg_jax.checkpoints import save_model_files, save_params
from xqg_jax.cli import main
from xqg_jax.cli.config import configure_stage, run_file
from xqg_jax.data.generated_queries import read_generated_queries
from xqg_jax.data.languages import XOR_TYDI_LANGUAGES
from xqg_jax.data.training_pairs import read_training_pairs
from xqg_jax.demo.pretraining import SHIPPED_GENERATOR
from xqg_jax.evaluation.results import load_evaluation
from xqg_jax.models.bert.config import BertConfig
from xqg_jax.models.bert.encoder import BertEncoder
from xqg_jax.models.dual_encoder.config import DualEncoderConfig
from xqg_jax.models.dual_encoder.network import make_network
from xqg_jax.models.parameters import init_params
from xqg_jax.text.tokenizer_training import train_tokenizer

BLOCKS = [block for page in PAGES for block in read_blocks(page)]
COMMANDS = [
  (block.where, arguments)
  for block in BLOCKS
  for command in block.commands()
  if block.kind != "python" and (arguments := find_xqg(command)) is not None
]
RUN_PAGES = [p for p in PAGES if any(b.page == p and b.runs for b in BLOCKS)]
NEWCOMER = "docs/guide/own_corpus.md"
STAGE_WORDS = {name.split()[0] for name in stages.STAGES} | {"--help"}
SLOW = {"demo", "plan", "prepare", "serve", "train"}
QUICK_COMMANDS = {"cat", "mkdir"}
# What keeps a test short, in the place of a page's own settings.
QUICK = {
  "generate": {
    "NUM_QUERIES": "1",
    "MAX_INPUT_LENGTH": "40",
    "MAX_QUERY_LENGTH": "12",
    "FORCE": "True",
  },
  "evaluate": {"TOKENIZER": "no_sentences"},
  "tune-alpha": {"TOKENIZER": "no_sentences"},
}


@pytest.fixture(autouse=True)
def _clear_gin():
  gin.clear_config()
  yield
  gin.clear_config()


# ---------------------------------------------------------------- configured


# What the dots of a command stand for, where that is no text.
LEFT_OUT = {"EVALUATIONS": "['x']", "RUNS": "{'x': 'x'}", "TRAIN_STEPS": "1"}


def _configure(arguments):
  """Binds a command's names and files for its stage."""
  whole = [argument for argument in arguments if argument != "..."]
  args, bindings = main._parse_arguments(whole)
  files = list(args.gin_file)
  if whole != list(arguments):
    text = run_file(args.stage).read_text()
    for name in re.findall(r"^([A-Z_]+) = %gin.REQUIRED$", text, re.MULTILINE):
      if name == "MODEL":
        files = files or ["models/bert_tiny.gin"]
      else:
        bindings.setdefault(name, LEFT_OUT.get(name, "'x'"))
  configure_stage(args.stage, gin_files=files, gin_bindings=bindings)


@pytest.mark.parametrize(
  ("where", "arguments"), COMMANDS, ids=[where for where, _ in COMMANDS]
)
def test_every_command_is_one_that_its_stage_takes(where, arguments):
  if "--help" not in arguments:
    _configure(arguments)


def test_a_typo_in_a_command_does_not_pass():
  for arguments in (
    ["encode", "--gin.CHECKPOINT_PATH=a", "--gin.PASSAGS=b"],
    ["encode", "--gin_file=encoders/e55.gin", "..."],
    ["encode", "--gin.encoding.encode.shard_sise=3", "..."],
    ["train", "--gin.MODEL_DIR=a"],
  ):
    with pytest.raises(main.InputError):
      _configure(arguments)
  with pytest.raises(main.InputError, match="did you mean `xqg encode`"):
    _configure(["encod", "--gin.PASSAGES=b"])


def test_blocks_that_do_not_run_say_why():
  for block in BLOCKS:
    if block.note and block.kind in ("bash", "python"):
      assert block.note in ("demo", "test") or block.note.startswith(
        "not run: "
      ), block.where


def test_blocks_that_run_are_quick():
  for block in BLOCKS:
    for command in block.commands() if block.runs else ():
      if block.kind == "bash":
        first = (find_xqg(command) or command.split())[0]
        assert first not in SLOW, f"{block.where}: say above why it is not run"
        assert first in {*QUICK_COMMANDS, *STAGE_WORDS}, block.where


@pytest.mark.parametrize(
  "block",
  [b for b in BLOCKS if b.kind in ("python", "json")],
  ids=lambda b: b.where,
)
def test_other_blocks_parse(block):
  if block.kind == "json":
    json.loads(block.text)
  else:
    compile(block.text, block.where, "exec")


def test_scripts_that_are_named_exist():
  for block in BLOCKS:
    named = re.findall(r"(?:benchmarks|scripts)/\w+\.(?:py|sh)", block.text)
    assert all((ROOT / name).is_file() for name in named), block.where


def test_links_lead_somewhere():
  for page in PAGES:
    folder = (ROOT / page).parent
    text = (ROOT / page).read_text()
    for link in re.findall(r"\]\((?!http)([^)#]+)(?:#[^)]*)?\)", text):
      assert (folder / link).exists(), f"{page}: {link}"


def test_the_index_lists_every_page_of_the_guide():
  index = (ROOT / "docs/guide/README.md").read_text()
  pages = {path.name for path in (ROOT / "docs/guide").glob("*.md")}
  assert pages - {"README.md"} <= set(re.findall(r"\((\w+\.md)\)", index))


# ---------------------------------------------------------------------- run


def _write_encoder(folder):
  config = DualEncoderConfig(pooling="cls", normalize=False)
  model = BertConfig(
    vocab_size=128,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=514,
  )
  texts = ["river lake hill town old new", "Mto huo unaanzia wapi?"]
  save_model_files(
    folder,
    model_config_hf=model.to_hf(),
    tokenizer=train_tokenizer(texts, vocab_size=128, style="bert"),
    dual_encoder_config=config,
  )
  network = make_network(BertEncoder(model), config)
  save_params(folder, 1, init_params(network, jax.random.key(0)))


@pytest.fixture(scope="module")
def quickly():
  """Compiles in half the time, for all of this file."""
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
  """The models, under the names that the pages give to theirs."""
  folder = tmp_path_factory.mktemp("models")
  _write_encoder(folder / "e5-small")
  for name in ("my_encoder", "encoder"):
    (folder / name).symlink_to(folder / "e5-small")
  for name in ("my_mt5", "generator", "my_generator"):
    (folder / name).symlink_to(SHIPPED_GENERATOR)
  return folder


def _write_collection(folder):
  rows = [
    f"{i}\tThe river {i} rises in the hills.\tRiver {i}" for i in range(6)
  ]
  (folder / "passages.tsv").write_text("\n".join(["id\ttext\ttitle", *rows]))
  questions = [
    {
      "id": f"q{i}",
      "question": f"Missä {i}?",
      "lang": "fi",
      "answers": ["hills"],
    }
    for i in range(6)
  ]
  lines = [json.dumps(question) for question in questions]
  (folder / "dev.jsonl").write_text("\n".join(lines))
  pairs = [
    {"query_id": code, "query": "Missä 1 on?", "lang": code}
    for code in XOR_TYDI_LANGUAGES
  ]
  (folder / "train_pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
  np.save(folder / "vectors.npy", np.eye(6, 16, dtype=np.float32))
  (folder / "ids.txt").write_text("".join(f"{i}\n" for i in range(6)))


def _run_command(command):
  arguments = find_xqg(command)
  if arguments is None:
    python = f"{pathlib.Path(sys.executable).parent}{os.pathsep}"
    environment = {**os.environ, "PATH": python + os.environ["PATH"]}
    subprocess.run(["bash", "-ec", command], check=True, env=environment)
    return
  if "--help" in arguments:
    quick = []
  else:
    settings = QUICK.get(arguments[0], {})
    quick = [f"--gin.{name}={value}" for name, value in settings.items()]
  with contextlib.suppress(SystemExit):  # of `--help`
    status = main.main([*map(os.path.expandvars, arguments), *quick])
    assert status == 0, command


def _make_room(command, made):
  """Removes what another page left where this one writes."""
  for name in re.findall(r"--gin\.(?:OUTPUT|MODEL)_DIR=(\S+)", command):
    path = pathlib.Path(os.path.expandvars(name))
    if path.is_symlink():
      path.unlink()
    elif path.exists() and name not in made:
      shutil.rmtree(path)
    made.add(name)


def _run_page(page, folder):
  made = set()
  with contextlib.chdir(folder):
    for block in filter(lambda block: block.runs, read_blocks(page)):
      if block.kind == "python":
        exec(compile(block.text, block.where, "exec"), {})
        continue
      for command in block.commands():
        _make_room(command, made)
        _run_command(command)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, models, quickly):
  """A folder in which the road of the README has been gone."""
  folder = tmp_path_factory.mktemp("finished")
  for path in models.iterdir():
    (folder / path.name).symlink_to(path.resolve())
  _write_collection(folder)
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("PWD", str(folder))
    _run_page("README.md", folder)
  return folder


def test_the_training_pairs_of_the_guide_are_pairs(tmp_path):
  (block, *_) = read_blocks("docs/guide/own_languages.md")
  with contextlib.chdir(tmp_path):
    for command in block.commands():
      _run_command(command)
    pairs = list(read_training_pairs("pairs/train_pairs.jsonl"))
  assert [pair.language for pair in pairs] == ["sw", "de", "quy"]
  assert all(len(pair.positives) == 1 for pair in pairs)


@pytest.fixture
def here(finished, tmp_path, monkeypatch):
  """A copy of that folder."""
  folder = tmp_path / "here"
  shutil.copytree(finished, folder, symlinks=True)
  monkeypatch.setenv("PWD", str(folder))
  return folder


@pytest.mark.slow
@pytest.mark.parametrize(
  "page", [p for p in RUN_PAGES if p not in ("README.md", NEWCOMER)]
)
def test_every_block_of_a_page_runs(page, here):
  _run_page(page, here)


@pytest.mark.slow
def test_a_newcomers_corpus_goes_through_the_guide(here):
  _run_page(NEWCOMER, here)
  metrics = load_evaluation(here / "mine_scores").metrics
  assert metrics["languages"] == ["de", "sw"]
  assert list(metrics["variants"]) == ["baseline", "augmented"]
  written = [
    q.queries for _, q in read_generated_queries(here / "mine_generated")
  ]
  assert len(written) == 4
  assert {code for queries in written for code in queries} == {"sw", "de"}
  report = (here / "mine_page/report.html").read_text()
  assert "German" in report
  assert "Swahili" in report
