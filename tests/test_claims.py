"""The script that tests the claims runs, and the page takes its figures."""

import pytest
from shipped_scripts import run_script, write_reproduction

from xqg_jax.files import read_json


@pytest.mark.slow
def test_the_claims_of_one_seed_of_a_small_collection(tmp_path, monkeypatch):
  out = tmp_path / "claims"
  run_script(
    monkeypatch,
    "claims",
    f"--output_dir={out}",
    "--num_passages=200",
    "--num_train_questions=210",
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
  assert "with 1 seeds each" in page
