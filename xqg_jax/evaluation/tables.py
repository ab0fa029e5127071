"""Tables of scores, differences and p values: text, Markdown, CSV, LaTeX."""

import csv
import io
import shutil
import sys
from collections.abc import Mapping
from typing import Any, Literal

from xqg_jax.errors import InputError
from xqg_jax.evaluation.significance import significance_mark

Layout = Literal["text", "markdown", "csv", "latex"]
LAYOUTS = ("text", "markdown", "csv", "latex")
_LATEX = str.maketrans({c: f"\\{c}" for c in "&%$#_{}"})


def check_layout(layout: str) -> None:
  """Refuses a layout that there is not.

  Raises:
    InputError: it is none of `LAYOUTS`.
  """
  if layout not in LAYOUTS:
    raise InputError(
      f"unknown format {layout!r}", mend=f"use one of {', '.join(LAYOUTS)}"
    )


def print_table(metrics: Mapping[str, Any], layout: Layout = "text") -> None:
  """Prints the metrics; in a terminal, as wide as it is."""
  width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
  print(format_table(metrics, layout, width=width))


def format_table(
  metrics: Mapping[str, Any],
  layout: Layout = "text",
  *,
  width: int | None = None,
) -> str:
  """The metrics: a block for each measure, a line for each variant.

  A variant's cell holds its value, the difference to the baseline, and stars
  where the difference is significant.

  Args:
    metrics: what `describe_metrics` returned.
    layout: of the tables; the notes below stand under text and Markdown only.
    width: columns of text in a line; columns beyond it stand in further
      tables below. None: any number.
  """
  blocks = []
  for measure in metrics["measures"]:
    rows = _make_rows(metrics, measure["name"], measure["label"])
    if layout == "text":
      parts = _cut_columns(rows, width)
      blocks += ["\n".join(_align(part)) + "\n" for part in parts]
    else:
      blocks.append(_LAYOUTS[layout](_strip(rows)))
  if layout in ("csv", "latex"):
    return "\n".join(blocks)
  notes = [
    f"differences to {metrics['baseline']!r}; * p < 0.05, ** p < 0.01 by a"
    f" paired randomization test ({metrics['settings']['rounds']:,} rounds)",
    "languages Holm-corrected; [..] 95% bootstrap interval of the macro"
    " difference",
    *metrics["notes"],
  ]
  lines = "\n".join(f"- {note}" for note in notes)
  return "\n".join([*blocks, lines]) + "\n"


def _make_rows(
  metrics: Mapping[str, Any], name: str, label: str
) -> list[list[str]]:
  measured = {v: m["measures"][name] for v, m in metrics["variants"].items()}
  languages = list(next(iter(measured.values()))["languages"])
  counts = next(iter(measured.values()))
  header = [
    label,
    *(f"{c} ({counts['languages'][c]['n']})" for c in languages),
    f"macro ({counts['macro']['n']})",
    "difference",
    "p",
  ]
  rows = [header]
  for variant, entry in measured.items():
    cells = [_format_cell(entry["languages"][c], "p_holm") for c in languages]
    macro = entry["macro"]
    rows.append([variant, *cells, _format_cell(macro, "p"), *_tail(macro)])
  return rows


def _format_cell(entry: Mapping[str, Any], p_key: str) -> str:
  text = f"{entry['value']:.1f}"
  if "sd" in entry:
    text += f"±{entry['sd']:.1f}"
  if "difference" in entry:
    mark = significance_mark(entry[p_key])
    text += f" {format_difference(entry['difference'])}{mark:<2}"
  return text


def _tail(macro: Mapping[str, Any]) -> tuple[str, str]:
  if "p" not in macro:
    return "", ""
  low, high = macro["interval"]
  interval = f"[{format_difference(low)}, {format_difference(high)}]"
  return interval, format_p(macro["p"])


def format_difference(value: float) -> str:
  """A signed number with one decimal; zero has no sign.

  >>> format_difference(1.25), format_difference(-0.04)
  ('+1.2', '0.0')
  """
  text = f"{value:+.1f}"
  return text[1:] if text in ("+0.0", "-0.0") else text


def format_p(p_value: float) -> str:
  """A p-value with four decimals.

  >>> format_p(0.03144), format_p(0.00001)
  ('0.0314', '<0.0001')
  """
  return "<0.0001" if p_value < 0.00005 else f"{p_value:.4f}"


def _align(rows: list[list[str]]) -> list[str]:
  """Pads columns: the first to the left, a value's sign under the others'."""
  widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
  return [
    "  ".join(
      cell.ljust(width) for cell, width in zip(row, widths, strict=True)
    ).rstrip()
    for row in rows
  ]


def _cut_columns(
  rows: list[list[str]], width: int | None
) -> list[list[list[str]]]:
  """Tables of at most `width` characters, each with the first column."""
  widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
  groups: list[list[int]] = [[0]]
  for column in range(1, len(widths)):
    taken = sum(widths[i] + 2 for i in groups[-1]) + widths[column]
    if width is not None and taken > width and len(groups[-1]) > 1:
      groups.append([0])
    groups[-1].append(column)
  return [[[row[i] for i in group] for row in rows] for group in groups]


def _strip(rows: list[list[str]]) -> list[list[str]]:
  return [[cell.strip() for cell in row] for row in rows]


def _to_markdown(rows: list[list[str]]) -> str:
  rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
  lines = [f"| {' | '.join(row)} |" for row in rows]
  lines.insert(1, "|---" * len(rows[0]) + "|")
  return "\n".join(lines) + "\n"


def _to_csv(rows: list[list[str]]) -> str:
  file = io.StringIO()
  csv.writer(file, lineterminator="\n").writerows(rows)
  return file.getvalue()


def _to_latex(rows: list[list[str]]) -> str:
  """A `tabular` with the rules of the package booktabs."""
  lines = [
    " & ".join(cell.translate(_LATEX) for cell in row) + r" \\" for row in rows
  ]
  return "\n".join(
    [
      rf"\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}",
      r"\toprule",
      lines[0],
      r"\midrule",
      *lines[1:],
      r"\bottomrule",
      r"\end{tabular}",
      "",
    ]
  )


_LAYOUTS = {"markdown": _to_markdown, "csv": _to_csv, "latex": _to_latex}


def measure_label(name: str) -> str:
  """How a measure is shown: TREC's "R" in full, "RR" as MRR.

  >>> [measure_label(n) for n in ("RR@10", "R@20", "R@2kt", "nDCG@10")]
  ['MRR@10', 'Recall@20', 'R@2kt', 'nDCG@10']
  """
  kind, at, cutoff = name.partition("@")
  if kind == "RR":
    return f"MRR{at}{cutoff}"
  if kind == "R" and not cutoff.endswith("t"):
    return f"Recall{at}{cutoff}"
  return name
