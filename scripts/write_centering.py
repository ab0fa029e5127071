"""Writes the tables of docs/guide/centering.md and README.md.

  python scripts/write_centering.py --e5=e5.json --use=use.json --pool=pool.json

merges what `centering_study.py` and `centering_pool.py` wrote into
docs/reproduction/centering.json; without arguments the tables are written anew
from that file.
"""

import argparse
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from xqg_jax.io.files import read_json, write_json, write_text

ROOT = pathlib.Path(__file__).parents[1]
DATA = ROOT / "docs" / "reproduction" / "centering.json"
PAGES = (ROOT / "docs" / "guide" / "centering.md", ROOT / "README.md")
_SHORT = (
  "base",
  "augmented",
  "centred",
  "centred by the shipped bank",
  "centred and augmented",
)

Figures = Mapping[str, Any]


# ------------------------------------------------------------------------ data


def collect(found: Mapping[str, Figures]) -> dict[str, Any]:
  """What the tables need of the studies, numbers to two decimals."""
  return {
    name: {
      "encoder": figures["encoder"],
      **(
        {"collections": _trim(figures["collections"])}
        if "collections" in figures
        else {k: figures[k] for k in ("num_passages", "num_questions", "rows")}
      ),
    }
    for name, figures in found.items()
  }


def _trim(collections: Figures) -> dict[str, Any]:
  return {
    name: {
      **{
        key: figures[key]
        for key in ("num_passages", "num_questions", "num_queries", "languages")
      },
      **{
        table: {row: _trim_row(v) for row, v in figures[table].items()}
        for table in ("rows", "fixed", "controls")
      },
      "bank_sizes": figures["bank_sizes"],
      "round_trips": figures.get("round_trips"),
    }
    for name, figures in collections.items()
  }


def _trim_row(row: Figures) -> dict[str, Any]:
  languages = {c: round(e["value"], 2) for c, e in row["languages"].items()}
  kept = {**row["macro"], "languages": languages}
  if "chosen" in row:
    kept["by_fold"] = row["chosen"]["by_fold"]
  return kept


# ---------------------------------------------------------------------- tables


def format_cell(cell: Figures | None) -> str:
  """A value, and its difference with the interval.

  >>> format_cell({"value": 62.94})
  '62.9'
  >>> format_cell(
  ...   {
  ...     "value": 62.94,
  ...     "difference": 13.0,
  ...     "interval": [9.3, 16.8],
  ...     "p": 0.001,
  ...   }
  ... )
  '62.9 (+13.0 [+9.3, +16.8]) **'
  """
  if cell is None:
    return ""
  if "difference" not in cell:
    return f"{cell['value']:.1f}"
  low, high = cell["interval"]
  p = cell.get("p_holm", cell["p"])
  mark = " **" if p < 0.01 else " *" if p < 0.05 else ""
  return (
    f"{cell['value']:.1f} ({cell['difference']:+.1f} "
    f"[{low:+.1f}, {high:+.1f}]){mark}"
  )


def make_table(
  collections: Figures, table: str, rows: Sequence[str] | None = None
) -> list[str]:
  """Rows of settings, columns of collections."""
  names = rows or list(
    dict.fromkeys(row for c in collections.values() for row in c[table])
  )
  heads = [f"{n}, n {c['num_questions']:,}" for n, c in collections.items()]
  return [
    _join(["MRR@10", *heads]),
    _join(["---"] * (1 + len(heads))),
    *(
      _join(
        [row, *(format_cell(c[table].get(row)) for c in collections.values())]
      )
      for row in names
    ),
  ]


def make_bank_table(collections: Figures) -> list[str]:
  """Queries a language that the means are of."""
  sizes = list(next(iter(collections.values()))["bank_sizes"])
  lines = [_join(["", *sizes]), _join(["---"] * (1 + len(sizes)))]
  for name, figures in collections.items():
    cells = figures["bank_sizes"].values()
    lines.append(
      _join([name, *(f"{c['mean']:.1f} ± {c['deviation']:.1f}" for c in cells)])
    )
  return lines


def make_choice_table(collections: Figures) -> list[str]:
  """Strengths that judged questions and round trips choose."""
  lines = [
    _join(["", "by judged questions, five folds", "by round trips"]),
    _join(["---"] * 3),
  ]
  for name, figures in collections.items():
    if figures["round_trips"] is not None:
      folds = figures["rows"]["centred"]["by_fold"]
      judged = ", ".join(sorted(set(folds), key=float))
      lines.append(_join([name, judged, figures["round_trips"]["chosen"]]))
  return lines


def make_pool_table(pool: Figures) -> list[str]:
  """The collection of passages in eleven languages."""
  lines = [
    _join(["", "mAP", "first hits in the question's language, %"]),
    _join(["---"] * 3),
  ]
  for name, row in pool["rows"].items():
    own = f"{row['first_hit_in_own_language']:.0f}"
    lines.append(_join([name, format_cell(row), own]))
  return lines


def _join(cells: Iterable[str]) -> str:
  return f"| {' | '.join(cells)} |"


def make_tables(data: Figures) -> dict[str, list[str]]:
  """All tables by the name that stands in a page's marker."""
  e5, use = (data[n]["collections"] for n in ("e5-small", "use"))
  others = {n: c for n, c in e5.items() if n != "XQuAD en"}
  return {
    "centering-short": make_table(others, "rows", _SHORT),
    "centering-e5": make_table(e5, "rows"),
    "centering-use": make_table(use, "rows"),
    "centering-controls": make_table(others, "controls"),
    "centering-banks": make_bank_table(others),
    "centering-choices": make_choice_table(e5),
    "centering-pool": make_pool_table(data["pool"]),
  }


def fill(text: str, tables: Mapping[str, Sequence[str]]) -> str:
  r"""Replaces what stands between the markers of each table.

  >>> fill("<!-- a -->\nold\n<!-- end a -->", {"a": ["new"]})
  '<!-- a -->\nnew\n<!-- end a -->'
  """
  for name, lines in tables.items():
    pattern = rf"(<!-- {name} -->\n).*?(<!-- end {name} -->)"
    body = "".join(f"{line}\n" for line in lines)
    text = re.sub(
      pattern, lambda m, b=body: m[1] + b + m[2], text, flags=re.DOTALL
    )
  return text


def main() -> None:
  """Runs the command line."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  for name in ("e5", "use", "pool"):
    parser.add_argument(f"--{name}", type=pathlib.Path)
  args = parser.parse_args()
  if args.e5:
    paths = {"e5-small": args.e5, "use": args.use, "pool": args.pool}
    write_json(DATA, collect({n: read_json(p) for n, p in paths.items()}))
  tables = make_tables(read_json(DATA))
  for page in PAGES:
    write_text(page, fill(page.read_text(encoding="utf-8"), tables))


if __name__ == "__main__":
  main()
