"""docs/reproduction.md is what its script makes of the figures beside it."""

import pathlib

import pytest

from tests.helpers.shipped_scripts import load_script
from xqg_jax.io.files import write_json

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script():
  return load_script("write_reproduction")


def test_the_page_is_the_scripts_own(script):
  page = (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8")
  assert script.write_page() == page


def _cell(value, difference=None, p=1.0):
  cell = {"value": value, "sd": 0.5, "n": 10}
  if difference is None:
    return cell
  return {**cell, "difference": difference, "interval": [-1.0, 2.0], "p": p}


def _metrics(**variants):
  """One macro average of each variant, for both budgets."""
  return {
    "baseline": next(iter(variants)),
    "measures": [{"name": b, "label": b} for b in ("R@2kt", "R@5kt")],
    "variants": {
      name: {"measures": {b: {"macro": c} for b, c in cells.items()}}
      for name, cells in variants.items()
    },
  }


def _both(*arguments):
  return {b: _cell(*arguments) for b in ("R@2kt", "R@5kt")}


def test_tables_show_spread_difference_and_p(script):
  metrics = _metrics(base=_both(40.0), more=_both(41.25, 1.25, 0.03))
  assert script.compare_table(metrics, ("R@2kt",)).splitlines()[2:] == [
    "| base | 40.0 ± 0.5 |  |",
    "| more | 41.2 ± 0.5 | +1.2 [-1.0, +2.0], p 0.0300 |",
  ]


@pytest.mark.parametrize(
  ("difference", "p", "words"),
  [
    (1.0, 0.01, "is better"),
    (-1.0, 0.01, "is worse"),
    (1.0, 0.05, "makes no significant difference"),
  ],
)
def test_verdicts(script, difference, p, words):
  metrics = _metrics(base=_both(40.0), other=_both(41.0, difference, p))
  assert script.judge(metrics, "other") == words


def test_enough_queries_are_those_from_which_all_more_help(script):
  ps = (0.01, 0.2, 0.01, 0.001)
  metrics = _metrics(
    base=_both(40.0),
    **{f"{n}": _both(41.0, 1.0, p) for n, p in enumerate(ps, start=1)},
  )
  assert script.find_enough_queries(metrics) == 3


def test_a_finished_recipe_fills_its_cells(script, tmp_path):
  metrics = _metrics(
    base=_both(44.44),
    augmented=_both(46.66, 2.2, 0.01),
    **{"mean 0.2": _both(9)},
  )
  write_json(tmp_path / "mbert_xor_tydi/evaluation/metrics.json", metrics)
  table = script.recipe_table(script.collect_results(tmp_path))
  assert "| `mbert_xor_tydi` | base | 44.2 | 44.4 | 51.8 | 44.4 |" in table
  assert (
    "| `mbert_xor_tydi` | mean 0.2 |  | 9.0 |  | 9.0 |\n| `mbert_nq`" in table
  )
  assert "| `xlmr_xor_tydi` | augmented | 29.8 |  |  |  |" in table


def test_the_same_comparison_counts_once(script):
  claims = {
    "one": _metrics(base=_both(40.0), more=_both(41.0, 1.0, 0.01)),
    "other_way": _metrics(more=_both(41.0), base=_both(40.0, -1.0, 0.01)),
    "another": _metrics(base=_both(40.0), less=_both(37.0, -3.0, 0.01)),
  }
  found = script.correlate_budgets(claims)
  assert (found["comparisons"], found["same_sign"]) == (2, 2)


def test_one_chip_stands_for_a_gpu_too(script, tmp_path):
  write_json(
    tmp_path / "mbert_xor_tydi-v5p-1x1x1" / "plan.json",
    {
      "topology": "v5p:1x1x1",
      "memory_per_chip": 95 * 2**30,
      "step": {
        "batch_size": 128,
        "num_devices": 1,
        "bytes_per_chip": {"total": 2**34},
        "flops_per_step": 989e12,
        "memory_traffic_per_chip": 2.4e12,
        "seconds": {"compute": 2.0, "memory": 3.0},
      },
    },
  )
  tpu, gpu = script.collect_plans(tmp_path)["rows"]
  assert (tpu["seconds"], gpu["seconds"]) == (3.0, 1.0)
  assert tpu["steps"] == gpu["steps"] == 4040
  cells = script.plan_table({"rows": [tpu]}).splitlines()[-1].split(" | ")
  assert cells[1:4] == ["v5p:1x1x1", "128", "16.0 of 95"]
  assert cells[4:] == ["989", "3.000", "4,040", "3.37 |"]
