"""Writes docs/reproduction.md and its plots from the figures of the scripts.

  python scripts/write_reproduction.py --claims=claims/claims.json
  python scripts/write_reproduction.py --claims_real=real/claims_real.json
  python scripts/write_reproduction.py --reproduced=reproduction
  python scripts/write_reproduction.py --plans=plans

`--claims` takes what scripts/claims.py wrote, `--claims_real` what
scripts/claims_real.py did, `--reproduced` the OUTPUT_DIR of
scripts/reproduce.sh, `--plans` a folder of outputs of `xqg plan`, one a
recipe, or job that all recipes share, and topology. Their figures are kept in
docs/reproduction/; the page is made of these and of
scripts/reproduction.md.jinja.
"""

import argparse
import math
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jinja2
import numpy as np

from xqg_jax.evaluation.report import plots
from xqg_jax.evaluation.tables import format_difference, format_p
from xqg_jax.io.files import read_json, write_json, write_text
from xqg_jax.runtime.chips import CHIPS

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
GIN_ROOT = ROOT / "gin_configs"
TEMPLATE = "reproduction.md.jinja"
SIGNIFICANT = 0.05
BUDGETS = ("R@2kt", "R@5kt")

# Table 1 of Zhuang et al. 2023 and what its text says, macro averages of
# (R@2kt, R@5kt) on the dev questions of XOR-Retrieve.
PAPER = {
  ("mbert_xor_tydi", "base"): (44.20, 51.84),
  ("mbert_xor_tydi", "augmented"): (46.23, 53.35),
  ("mbert_nq", "base"): (33.0, None),
  ("xlmr_xor_tydi", "augmented"): (29.8, None),
}
ROWS = tuple(
  (f"{encoder}_{data}", run)
  for encoder in ("mbert", "xlmr", "e5_base")
  for data in ("xor_tydi", "nq", "generated", "mixed")
  for run in ("base", "augmented")
)

# What all recipes share, and how much of it there is: queries, and tokens of
# passages and queries (docs/guide/encoding.md).
SHARED = {
  "generator": "fine-tuning mT5-base",
  "generation": "writing all queries",
  "encoding": "encoding passages and queries, base size",
}
AMOUNTS = {"generation": 637_000_000, "encoding": 11_400_000_000}

# Colours of the plots where no page gives them any.
STYLE = """<style>
svg { color: #1d2733; background: #ffffff; font-family: sans-serif;
  --grid: #e3e7ec; --baseline: #8a94a3; --series-1: #2463c9;
  --series-2: #d97706; --series-3: #0e8f63; --series-4: #8b3fc7; }
@media (prefers-color-scheme: dark) { svg { color: #e6eaf0;
  background: #12161c; --grid: #2d3541; --baseline: #8a95a5;
  --series-1: #6ea8ff; --series-2: #f5a742; --series-3: #46c995;
  --series-4: #c48bf2; } }
</style>"""

Metrics = Mapping[str, Any]


# --------------------------------------------------------------------- tables


def make_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """A table in Markdown.

  >>> print(make_table(("a", "b"), [("1", "2")]))
  | a | b |
  |---|---|
  | 1 | 2 |
  """
  first, *others = [f"| {' | '.join(row)} |" for row in (header, *rows)]
  return "\n".join([first, "|---" * len(header) + "|", *others])


def compare_table(metrics: Metrics, measures: Sequence[str] = ()) -> str:
  """Values, their spread over seeds if any, differences to the baseline."""
  names = measures or [m["name"] for m in metrics["measures"]]
  labels = {m["name"]: m["label"] for m in metrics["measures"]}
  header = ["", *(labels[n] for n in names for _ in range(2))]
  header[2::2] = ["difference"] * len(names)
  rows = []
  for variant, entry in metrics["variants"].items():
    cells = [entry["measures"][name]["macro"] for name in names]
    rows.append(
      [variant, *(text for cell in cells for text in _show_cell(cell))]
    )
  return make_table(header, rows)


def _show_cell(cell: Metrics) -> tuple[str, str]:
  value = f"{cell['value']:.1f}"
  if "sd" in cell:  # of several seeds
    value += f" ± {cell['sd']:.1f}"
  if "difference" not in cell:
    return value, ""
  low, high = map(format_difference, cell["interval"])
  difference = format_difference(cell["difference"])
  return value, f"{difference} [{low}, {high}], p {format_p(cell['p'])}"


def language_table(
  metrics: Metrics, variant: str, measures: Sequence[str] = BUDGETS
) -> str:
  """Differences of one variant by language, Holm-corrected."""
  labels = {m["name"]: m["label"] for m in metrics["measures"]}
  rows = []
  for measure in measures:
    entry = metrics["variants"][variant]["measures"][measure]
    cells = entry["languages"].values()
    rows.append(
      [
        labels[measure],
        *(
          format_difference(c["difference"])
          + ("*" if c["p_holm"] < SIGNIFICANT else "")
          for c in cells
        ),
      ]
    )
  return make_table(["", *metrics["languages"]], rows)


# --------------------------------------------------------------------- verdicts


def judge(metrics: Metrics, variant: str, measure: str = "R@2kt") -> str:
  """What the paired test says of a variant beside the baseline, in words."""
  cell = metrics["variants"][variant]["measures"][measure]["macro"]
  if cell["p"] >= SIGNIFICANT:
    return "makes no significant difference"
  return "is better" if cell["difference"] > 0 else "is worse"


def find_enough_queries(metrics: Metrics) -> int | None:
  """The number of queries from which on the gain is significant."""
  enough = None
  for number, variant in enumerate(list(metrics["variants"])[1:], start=1):
    if judge(metrics, variant) != "is better":
      enough = None
    elif enough is None:
      enough = number
  return enough


def agree(is_so: bool) -> str:
  """Whether a claim of the paper holds here, in words."""
  return "this agrees" if is_so else "this does not agree"


def count_gaining(metrics: Metrics) -> int:
  """How many languages gain significantly by augmentation, in R@2kt."""
  cells = metrics["variants"]["augmented"]["measures"]["R@2kt"]["languages"]
  return sum(
    c["p_holm"] < SIGNIFICANT and c["difference"] > 0 for c in cells.values()
  )


def judge_languages(metrics: Metrics) -> str:
  """How many languages gain, and how many lose, by augmentation."""
  cells = metrics["variants"]["augmented"]["measures"]["R@2kt"]["languages"]
  clear = sum(c["p_holm"] < SIGNIFICANT for c in cells.values())
  better = count_gaining(metrics)
  return (
    f"Of {len(cells)} languages {better} gain significantly in R@2kt, "
    f"{clear - better} lose."
  )


def correlate_budgets(claims: Mapping[str, Metrics]) -> dict[str, float]:
  """Whether R@5kt goes where R@2kt goes, over all different comparisons."""
  found = {}
  for metrics in claims.values():
    for name, variant in metrics["variants"].items():
      if name != metrics["baseline"]:
        cells = (variant["measures"][b]["macro"] for b in BUDGETS)
        pair = tuple(round(cell["difference"], 2) for cell in cells)
        # The same two runs may stand in several tables, and either way round.
        found[max(pair, tuple(-x for x in pair))] = pair
  pairs = np.array(list(found.values()))
  same = int((pairs[:, 0] * pairs[:, 1] > 0).sum())
  return {
    "comparisons": len(pairs),
    "same_sign": same,
    "correlation": float(np.corrcoef(pairs.T)[0, 1]),
  }


# ------------------------------------------------------------------------ page


def recipe_table(results: Metrics) -> str:
  """The paper's figures beside ours, as far as there are any."""
  rows = []
  nothing = (None, None)
  more = [(r, run) for r in results for run in results[r]]
  order = list(dict.fromkeys(recipe for recipe, _ in ROWS))
  rest = sorted({*more} - {*ROWS}, key=more.index)
  for recipe, run in sorted(
    [*ROWS, *rest], key=lambda row: order.index(row[0])
  ):
    paper = PAPER.get((recipe, run), nothing)
    ours = results.get(recipe, {}).get(run, nothing)
    cells = [x for pair in zip(paper, ours, strict=True) for x in pair]
    shown = ["" if x is None else f"{x:.1f}" for x in cells]
    rows.append([f"`{recipe}`", run, *shown])
  header = [f"{b}, {who}" for b in BUDGETS for who in ("paper", "ours")]
  return make_table(["recipe", "run", *header], rows)


def plan_table(plans: Metrics) -> str:
  """Memory and least time of each job."""
  order = [*SHARED, *sorted({row["job"] for row in plans["rows"]} - {*SHARED})]
  rows = [
    [
      SHARED.get(row["job"], f"`{row['job']}`"),
      row["chips"],
      f"{row['batch_size']:,}",
      f"{row['gib_per_chip']:.1f} of {row['gib_of_chip']:.0f}",
      f"{row['tflop']:.0f}",
      f"{row['seconds']:.3f}",
      f"{row['steps']:,}",
      f"{row['seconds'] * row['steps'] / 3600:.2f}",
    ]
    for row in sorted(plans["rows"], key=lambda row: order.index(row["job"]))
  ]
  header = ["job", "chips", "batch", "GiB a chip", "TFLOP a step"]
  return make_table([*header, "seconds a step >", "steps", "hours >"], rows)


def write_page(folder: pathlib.Path = DOCS) -> str:
  """The page's text, from the figures in `folder/reproduction`."""
  figures = read_json(folder / "reproduction" / "claims.json")
  claims = figures["claims"]
  real = read_json(folder / "reproduction" / "claims_real.json")
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(ROOT / "scripts"),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    keep_trailing_newline=True,
  )
  return environment.get_template(TEMPLATE).render(
    figures=figures,
    claims=claims,
    real=real,
    budgets=BUDGETS,
    compare=compare_table,
    judge=judge,
    by_language=language_table,
    judge_languages=judge_languages,
    num_gaining=count_gaining,
    agree=agree,
    enough=find_enough_queries(claims["num_queries"]),
    agreement=correlate_budgets(claims),
    recipes=recipe_table(read_json(folder / "reproduction" / "results.json")),
    plans=plan_table(read_json(folder / "reproduction" / "plans.json")),
  )


def write_plots(claims: Mapping[str, Metrics], folder: pathlib.Path) -> None:
  """The plots as files that stand for themselves."""
  drawings = {
    "num_queries": plots.plot_num_queries(claims["num_queries"], "R@2kt"),
    "alphas": plots.plot_alphas(claims["alphas"], "R@2kt"),
    "training": plots.plot_languages(
      claims["training"], "R@2kt", list(claims["training"]["variants"])
    ),
  }
  for name, svg in drawings.items():
    opening = '<svg xmlns="http://www.w3.org/2000/svg" '
    svg = svg.replace("<svg ", opening, 1)
    svg = re.sub(r"(<svg[^>]*>)", rf"\1{STYLE}", svg, count=1)
    svg = svg.replace("xlink:href", "href")
    write_text(folder / f"{name}.svg", svg)


# --------------------------------------------------------------------- figures


def collect_claims(claims: pathlib.Path) -> Any:
  """The figures of scripts/claims.py, without those of single seeds."""
  return _shorten(read_json(claims))


def _shorten(value: Any) -> Any:
  if isinstance(value, Mapping):
    apart = ("difference_seeds", "missing_questions")
    kept = {k: v for k, v in value.items() if k not in apart}
    if "value" in kept:
      kept.pop("seeds", None)
    return {key: _shorten(x) for key, x in kept.items()}
  if isinstance(value, list):
    return [_shorten(x) for x in value]
  return round(value, 5) if isinstance(value, float) else value


def collect_results(reproduced: pathlib.Path) -> dict[str, Any]:
  """Macro averages of every finished recipe, beside those known before."""
  results = read_json(DOCS / "reproduction" / "results.json")
  for recipe in dict.fromkeys(recipe for recipe, _ in ROWS):
    file = reproduced / recipe / "evaluation" / "metrics.json"
    if file.is_file():
      results[recipe] = {
        run: [found["measures"][b]["macro"]["value"] for b in BUDGETS]
        for run, found in read_json(file)["variants"].items()
      }
  return results


def collect_plans(plans: pathlib.Path) -> dict[str, Any]:
  """Memory and least time of each job, from folders `RECIPE-GENERATION-...`.

  In the place of a recipe, a job that all recipes share. A plan for one chip
  stands for one H200, too: its memory, and the time of its products and its
  memory traffic at the published figures.
  """
  rows = []
  for file in sorted(plans.glob("*/plan.json")):
    plan = read_json(file)
    job = file.parent.name.partition("-")[0]
    step = plan["step"]
    row = {
      "job": job,
      "chips": plan["topology"],
      "batch_size": step["batch_size"],
      "gib_per_chip": step["bytes_per_chip"]["total"] / 2**30,
      "gib_of_chip": plan["memory_per_chip"] / 2**30,
      "tflop": step["flops_per_step"] / 1e12,
      "seconds": max(step["seconds"].values()),
      "steps": count_steps(job, step),
    }
    rows.append(row)
    if step["num_devices"] == 1:
      gpu = CHIPS["NVIDIA H200"]
      size = gpu.memory / 2**30
      seconds = max(
        step["flops_per_step"] / gpu.flops,
        step["memory_traffic_per_chip"] / gpu.memory_bandwidth,
      )
      rows.append(
        {**row, "chips": "H200", "gib_of_chip": size, "seconds": seconds}
      )
  return {"rows": rows}


def count_steps(job: str, step: Metrics) -> int:
  """Steps of a recipe, or of a job that all recipes share.

  >>> step = {"units_per_second": 100.0, "seconds": {"compute": 0.5}}
  >>> count_steps("generation", step) == 637_000_000 / 50
  True
  """
  if job in AMOUNTS:
    units = step["units_per_second"] * max(step["seconds"].values())
    return math.ceil(AMOUNTS[job] / round(units))
  if job == "generator":
    text = (ROOT / "scripts" / "reproduce.sh").read_text()
    return int(re.search(r"--gin.TRAIN_STEPS=(\d+)", text)[1])
  text = (GIN_ROOT / "recipes" / f"{job}.gin").read_text()
  return int(re.search(r"^TRAIN_STEPS = (\d+)", text, re.M)[1])


def main() -> None:
  """Runs the command line."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  sources: dict[str, tuple[str, Callable[[pathlib.Path], Any]]] = {
    "claims": ("claims.json", collect_claims),
    "claims_real": ("claims_real.json", collect_claims),
    "reproduced": ("results.json", collect_results),
    "plans": ("plans.json", collect_plans),
  }
  for name in sources:
    parser.add_argument(f"--{name}", type=pathlib.Path)
  args = vars(parser.parse_args())
  figures = DOCS / "reproduction"
  for name, (file, collect) in sources.items():
    if args[name] is not None:
      write_json(figures / file, collect(args[name]))
  write_plots(read_json(figures / "claims.json")["claims"], figures)
  write_text(DOCS / "reproduction.md", write_page())


if __name__ == "__main__":
  main()
