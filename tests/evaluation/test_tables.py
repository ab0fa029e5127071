"""Tables of scores in every layout and width."""

import csv
import io

import pytest

from xqg_jax.errors import InputError
from xqg_jax.evaluation.tables import (
  check_layout,
  format_table,
  print_table,
)


def _cell(value, **tests):
  return {"value": value, "n": 10, **tests}


METRICS = {
  "baseline": "a|b",
  "settings": {"rounds": 100},
  "notes": ["a note"],
  "measures": [{"name": "R@2kt", "label": "R@2kt"}],
  "variants": {
    "a|b": {
      "measures": {
        "R@2kt": {
          "macro": _cell(50.0),
          "languages": {"ar": _cell(40.0), "fi": _cell(60.0)},
        }
      }
    },
    "sum_0.1": {
      "measures": {
        "R@2kt": {
          "macro": _cell(55.0, difference=5.0, p=0.04, interval=[1.0, 9.0]),
          "languages": {
            "ar": _cell(50.0, difference=10.0, p_holm=0.001),
            "fi": _cell(60.0, difference=0.0, p_holm=1.0),
          },
        }
      }
    },
  },
}


def test_text_of_any_width_and_of_a_terminals():
  whole = format_table(METRICS)
  assert whole.splitlines()[:3] == [
    "R@2kt    ar (10)       fi (10)     macro (20)   difference    p".replace(
      "(20)", "(10)"
    ),
    "a|b      40.0          60.0        50.0",
    "sum_0.1  50.0 +10.0**  60.0 0.0    55.0 +5.0*   [+1.0, +9.0]  0.0400",
  ]
  narrow = format_table(METRICS, width=36)
  tables = narrow.split("\n\n")
  assert all(len(line) <= 36 for t in tables[:-1] for line in t.splitlines())
  assert all(t.splitlines()[0].startswith("R@2kt ") for t in tables[:-1])
  words = whole.split("\n\n")[0].split()
  assert set(words) <= set(narrow.split())


def test_markdown():
  lines = format_table(METRICS, "markdown").splitlines()
  assert lines[:4] == [
    "| R@2kt | ar (10) | fi (10) | macro (10) | difference | p |",
    "|---|---|---|---|---|---|",
    r"| a\|b | 40.0 | 60.0 | 50.0 |  |  |",
    "| sum_0.1 | 50.0 +10.0** | 60.0 0.0 | 55.0 +5.0* | [+1.0, +9.0] | "
    "0.0400 |",
  ]
  assert lines[-1] == "- a note"


def test_csv():
  rows = list(csv.reader(io.StringIO(format_table(METRICS, "csv"))))
  assert rows[2] == [
    "sum_0.1",
    "50.0 +10.0**",
    "60.0 0.0",
    "55.0 +5.0*",
    "[+1.0, +9.0]",
    "0.0400",
  ]
  assert len(rows) == 3


def test_latex():
  lines = format_table(METRICS, "latex").splitlines()
  assert lines[0] == r"\begin{tabular}{lrrrrr}"
  assert lines[5].startswith(r"sum\_0.1 & 50.0 +10.0** & 60.0 0.0 &")
  assert lines[5].endswith(r"\\")
  assert lines[-1] == r"\end{tabular}"


def test_no_other_layout(capsys):
  with pytest.raises(InputError, match="unknown format 'html'"):
    check_layout("html")
  print_table(METRICS)
  assert capsys.readouterr().out == format_table(METRICS) + "\n"
