"""Text tables of scores, differences and p values."""

from collections.abc import Mapping
from typing import Any

from xqg_jax.evaluation.significance import significance_mark


def format_table(metrics: Mapping[str, Any]) -> str:
  """The metrics as text: a block for each measure, a line for each variant.

  A variant's cell holds its value, the difference to the baseline, and stars
  where the difference is significant.
  """
  blocks = [
    _format_block(metrics, measure["name"], measure["label"])
    for measure in metrics["measures"]
  ]
  notes = [
    f"differences to {metrics['baseline']!r}; * p < 0.05, ** p < 0.01 by a"
    f" paired randomization test ({metrics['settings']['rounds']:,} rounds)",
    "languages Holm-corrected; [..] 95% bootstrap interval of the macro"
    " difference",
    *metrics["notes"],
  ]
  lines = "\n".join(f"- {note}" for note in notes)
  return "\n".join([*blocks, lines]) + "\n"


def _format_block(metrics: Mapping[str, Any], name: str, label: str) -> str:
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
  return "\n".join(_align(rows)) + "\n"


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
