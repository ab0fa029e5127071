"""The demo at its smallest, and the making of the generator it starts from."""

import json

import pytest

from xqg_jax import demo, demo_pretraining
from xqg_jax.checkpoints import load_query_generator
from xqg_jax.records import read_generated_queries
from xqg_jax.training_pairs import read_training_pairs
from xqg_jax.xor_mini import iter_passages


@pytest.mark.slow
def test_the_whole_road_at_its_smallest(tmp_path):
  def run():
    return demo.run_demo(
      output_dir=str(tmp_path / "demo"),
      num_passages=200,
      generator_steps=2,
      encoder_steps=4,
    )

  result = run()
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
    for _, row in read_generated_queries(
      tmp_path / "demo" / "seed_0" / "generated_queries"
    )
  ]
  assert len(queries) == 200
  assert all(len(q) == 5 for row in queries for q in row.queries.values())
  page = (tmp_path / "demo" / "report" / "report.html").read_text()
  assert "R@2kt" in page
  assert run().metrics == result.metrics


@pytest.mark.slow
def test_pretraining_sees_no_entity_of_a_demo(tmp_path, monkeypatch):
  for name, value in (
    ("NUM_PASSAGES", 200),
    ("NUM_NAMES", 210),
    ("SEED", 3),  # a demo's own collection: every pair must go
    ("VOCAB_SIZE", 1200),
  ):
    monkeypatch.setattr(demo_pretraining, name, value)
  monkeypatch.setattr(demo_pretraining, "RESERVED_SEEDS", (3,))
  monkeypatch.setattr(demo_pretraining, "RESERVED_PASSAGES", 200)
  reserved = {passage.title for passage in iter_passages(200, 3)}
  kept = list(demo_pretraining.iter_allowed_pairs(_pairs(tmp_path)))
  assert kept == []
  names = list(
    demo_pretraining.iter_allowed_pairs(demo_pretraining.make_name_pairs())
  )
  assert len(names) == 210
  assert reserved.isdisjoint(p.positives[0].title for p in names)


def _pairs(tmp_path):
  from xqg_jax.xor_mini import make_xor_mini

  make_xor_mini(output_dir=tmp_path / "mini", num_passages=200, seed=3)
  return read_training_pairs(tmp_path / "mini" / "train_pairs.jsonl")


def test_the_shipped_generator_is_what_the_code_describes():
  generator = load_query_generator(str(demo_pretraining.SHIPPED_GENERATOR))
  config = demo_pretraining.make_generator_config()
  assert generator.config.emb_dim == config.emb_dim
  assert generator.config.vocab_size == demo_pretraining.VOCAB_SIZE
  total = sum(
    file.stat().st_size for file in demo_pretraining.SHIPPED_GENERATOR.iterdir()
  )
  assert total < 20e6


def test_the_shipped_training_logs_end_with_a_low_loss():
  for part in ("names", "questions"):
    path = demo_pretraining.SHIPPED_GENERATOR / f"train_log_{part}.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows[-1]["loss"] < 0.25 * rows[0]["loss"]
