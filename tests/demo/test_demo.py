"""The demo and the claims at their smallest, and what the demo starts from."""

import json
import pathlib
import re
import shlex

import pytest

from tests.helpers.shipped_scripts import run_script, write_reproduction
from xqg_jax.checkpoints import load_query_generator
from xqg_jax.data.generated_queries import read_generated_queries
from xqg_jax.data.training_pairs import read_training_pairs
from xqg_jax.demo import demo, pretraining
from xqg_jax.io.files import read_json
from xqg_jax.xor_mini import iter_passages

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("demo") / "demo"


def _run_demo(folder):
  return demo.run_demo(
    output_dir=str(folder), num_passages=200, generator_steps=2, encoder_steps=4
  )


@pytest.mark.slow
def test_the_whole_road_at_its_smallest(folder, capsys):
  result = _run_demo(folder)
  told = capsys.readouterr().out.splitlines()[-4:]
  assert told[0].startswith("Found: with the sums of generated queries added")
  commands = [shlex.split(line) for line in told[2:]]
  assert [words[:2] for words in commands] == [
    ["xqg", "search"],
    ["xqg", "serve"],
  ]
  for word in commands[1][2:]:
    assert pathlib.Path(word.partition("=")[2]).exists(), word
  assert list(result.metrics["variants"])[:4] == [
    "baseline",
    "augmented",
    "trained on generated",
    "trained on generated, augmented",
  ]
  cell = result.result("augmented", "R@2kt")
  assert cell["n"] == 7 * 60
  assert 0 <= cell["p"] <= 1
  queries = [
    row
    for _, row in read_generated_queries(folder / "seed_0/generated_queries")
  ]
  assert len(queries) == 200
  assert all(len(q) == 5 for row in queries for q in row.queries.values())
  page = (folder / "report" / "report.html").read_text()
  assert "R@2kt" in page
  assert _run_demo(folder).metrics == result.metrics
  guide = (ROOT / "docs" / "guide" / "first_run.md").read_text()
  places = re.findall(r"xqg_demo/(seed_0/[\w/.]+)", guide)
  table = re.findall(r"^\| (`.*?) \|", guide, re.M)
  places += [
    f"seed_0/{x}" for row in table for x in re.findall(r"`(.+?)`", row)
  ]
  assert len(places) > 12
  assert [place for place in places if not (folder / place).exists()] == []


@pytest.mark.slow
def test_claims_go_on_from_the_demos_queries(folder, tmp_path, monkeypatch):
  _run_demo(folder)
  out = folder / "seed_0"
  run_script(
    monkeypatch,
    "claims",
    f"--output_dir={out}",
    "--num_passages=200",
    "--num_train_questions=280",
    "--generator_steps=2",
    "--encoder_steps=2",
    "--seeds",
    "0",
  )
  figures = read_json(out / "claims.json")
  claims = figures["claims"]
  recall = {
    name: found["variants"]["baseline"]["measures"]["R@2kt"]["macro"]["value"]
    for name, found in claims.items()
    if "baseline" in found["variants"]
  }
  # One encoder and its searches stand behind these; another behind those.
  same = ("stronger", "num_queries", "alphas", "control")
  assert len({recall[name] for name in same}) == 1
  assert "fi" not in claims["zero_shot"]["languages"]
  best = claims["num_queries"]["variants"]["5 a language"]["measures"]
  whole = claims["stronger"]["variants"]["augmented"]["measures"]
  for measure, found in whole.items():
    value = best[measure]["macro"]["value"]
    assert value == pytest.approx(found["macro"]["value"], abs=1e-6)
  page = write_reproduction(tmp_path, "claims", out / "claims.json")
  assert "200 passages of `xor_mini`" in page


@pytest.mark.slow
def test_pretraining_sees_no_entity_of_a_demo(tmp_path, monkeypatch):
  for name, value in (
    ("NUM_PASSAGES", 200),
    ("NUM_NAMES", 210),
    ("SEED", 3),  # a demo's own collection: every pair must go
    ("VOCAB_SIZE", 1200),
  ):
    monkeypatch.setattr(pretraining, name, value)
  monkeypatch.setattr(pretraining, "RESERVED_SEEDS", (3,))
  monkeypatch.setattr(pretraining, "RESERVED_PASSAGES", 200)
  reserved = {passage.title for passage in iter_passages(200, 3)}
  kept = list(pretraining.iter_allowed_pairs(_pairs(tmp_path)))
  assert kept == []
  names = list(pretraining.iter_allowed_pairs(pretraining.make_name_pairs()))
  assert len(names) == 210
  assert reserved.isdisjoint(p.positives[0].title for p in names)


def _pairs(tmp_path):
  from xqg_jax.xor_mini import make_xor_mini

  make_xor_mini(output_dir=tmp_path / "mini", num_passages=200, seed=3)
  return read_training_pairs(tmp_path / "mini" / "train_pairs.jsonl")


def test_the_shipped_generator_is_what_the_code_describes():
  generator = load_query_generator(str(pretraining.SHIPPED_GENERATOR))
  config = pretraining.make_generator_config()
  assert generator.config.emb_dim == config.emb_dim
  assert generator.config.vocab_size == pretraining.VOCAB_SIZE
  total = sum(
    file.stat().st_size for file in pretraining.SHIPPED_GENERATOR.iterdir()
  )
  assert total < 20e6


def test_the_shipped_training_logs_end_with_a_low_loss():
  for part in ("names", "questions"):
    path = pretraining.SHIPPED_GENERATOR / f"train_log_{part}.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows[-1]["loss"] < 0.25 * rows[0]["loss"]
