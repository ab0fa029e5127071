"""Inline SVG plots in the colours and font of their page.

Text is `currentColor`; series and grid use the CSS variables `--series-N`,
`--baseline` and `--grid`, so one drawing serves light and dark pages.
"""

import hashlib
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context, ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

NUM_SERIES = 6
# Colours that stand for CSS values until the SVG is written.
_TEXT, _GRID, _BASELINE = "#a10000", "#a10001", "#a10002"
_SERIES = tuple(f"#a100{16 + number:02x}" for number in range(NUM_SERIES))
_CSS = {
  _TEXT: "currentColor",
  _GRID: "var(--grid)",
  _BASELINE: "var(--baseline)",
} | {color: f"var(--series-{n})" for n, color in enumerate(_SERIES, start=1)}

_STYLE = {
  "svg.fonttype": "none",
  "text.parse_math": False,
  "font.size": 12,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.spines.left": False,
  "axes.edgecolor": _TEXT,
  "axes.labelcolor": _TEXT,
  "axes.grid": True,
  "axes.axisbelow": True,
  "grid.color": _GRID,
  "text.color": _TEXT,
  "xtick.color": _TEXT,
  "ytick.color": _TEXT,
  "xtick.major.size": 3,
  "ytick.major.size": 0,
  "legend.frameon": False,
  "legend.fontsize": 11,
  "figure.facecolor": "none",
  "axes.facecolor": "none",
}
_MARKERS = "osD^vP"


# -------------------------------------------------------------------- drawings


def plot_alphas(metrics: Mapping[str, Any], measure: str) -> str | None:
  """Macro average over alpha, a line for each reduction.

  The band is the 95% interval of the difference to the baseline, drawn around
  the baseline's value.

  Returns:
    An SVG element, or None when no reduction has two alphas.
  """
  return _plot_curves(
    metrics,
    measure,
    x_of=lambda a: a["alpha"],
    label_of=lambda a: _describe(a, "alpha"),
    x_label="alpha",
    is_log=True,
  )


def plot_num_queries(metrics: Mapping[str, Any], measure: str) -> str | None:
  """Macro average over the number of generated queries a language.

  Returns:
    An SVG element, or None when no augmentation has two such numbers.
  """
  return _plot_curves(
    metrics,
    measure,
    x_of=lambda a: a["num_queries"],
    label_of=lambda a: _describe(a, "num_queries"),
    x_label="generated queries per language",
    is_log=False,
  )


def plot_languages(
  metrics: Mapping[str, Any], measure: str, variants: Sequence[str]
) -> str:
  """Bars by language and for the macro average, one colour a variant."""
  entries = [
    metrics["variants"][name]["measures"][measure] for name in variants
  ]
  languages = list(entries[0]["languages"])
  places = np.arange(len(languages) + 1, dtype=float)
  places[-1] += 0.4  # sets the average apart
  width = 0.8 / len(variants)

  def draw(axes: Axes) -> None:
    for number, (name, entry) in enumerate(zip(variants, entries, strict=True)):
      heights = [entry["languages"][code]["value"] for code in languages]
      axes.bar(
        places + (number - (len(variants) - 1) / 2) * width,
        [*heights, entry["macro"]["value"]],
        width * 0.92,
        label=name,
        color=_color(name, metrics, number - 1),
      )
    axes.set_xticks(places, [*languages, "macro"])
    axes.grid(axis="x", visible=False)
    axes.set_ylim(0, None)
    _label(axes, y=_label_of(metrics, measure))
    _legend(axes, len(variants))

  return _draw(draw, f"{_label_of(metrics, measure)} by language")


def plot_losses(rows: Sequence[Mapping[str, Any]]) -> str | None:
  """Losses over training steps.

  Args:
    rows: `{"step": ..., "loss": ..., ...}`; every key that ends in "loss" is
      drawn.

  Returns:
    An SVG element, or None when there is nothing to draw.
  """
  found = {k for row in rows for k, v in row.items() if v is not None}
  names = sorted(name for name in found if name.endswith("loss"))
  if not names:
    return None

  def draw(axes: Axes) -> None:
    for number, name in enumerate(names):
      points = [(r["step"], r[name]) for r in rows if r.get(name) is not None]
      steps, losses = np.array(points, float).T
      color = _SERIES[number % NUM_SERIES]
      # One step's loss is noisy: the mean over a fiftieth of the run leads.
      window = max(1, len(losses) // 50)
      axes.plot(steps, losses, color=color, alpha=0.3 if window > 1 else 1)
      axes.plot(steps, _smooth(losses, window), color=color, label=name)
    _label(axes, x="step", y="loss")
    axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
    if len(names) > 1:
      _legend(axes, len(names))

  return _draw(draw, "loss over training steps")


def _smooth(values: np.ndarray, window: int) -> np.ndarray:
  """Trailing mean over up to `window` values."""
  sums = np.cumsum(np.concatenate([[0.0], values]))
  ends = np.arange(1, len(values) + 1)
  starts = np.maximum(0, ends - window)
  return (sums[ends] - sums[starts]) / (ends - starts)


# --------------------------------------------------------------------- helpers


def _plot_curves(
  metrics: Mapping[str, Any],
  measure: str,
  *,
  x_of: Callable[[Mapping[str, Any]], float | None],
  label_of: Callable[[Mapping[str, Any]], str],
  x_label: str,
  is_log: bool,
) -> str | None:
  found: dict[str, dict[float, Mapping[str, Any]]] = {}
  for name, variant in metrics["variants"].items():
    augmentation = variant["augmentation"]
    if name == metrics["baseline"] or not augmentation:
      continue
    x = x_of(augmentation)
    if x:
      entry = variant["measures"][measure]["macro"]
      found.setdefault(label_of(augmentation), {})[x] = entry
  curves = {label: points for label, points in found.items() if len(points) > 1}
  if not curves:
    return None
  base = metrics["variants"][metrics["baseline"]]["measures"][measure]

  def draw(axes: Axes) -> None:
    _draw_baseline(axes, base["macro"]["value"], metrics["baseline"])
    for number, (label, points) in enumerate(curves.items()):
      _draw_curve(axes, label, points, base["macro"]["value"], number)
    if is_log:
      axes.set_xscale("log")
    ticks = _thin({x for points in curves.values() for x in points}, is_log)
    axes.set_xticks(ticks, [f"{x:g}" for x in ticks], rotation=45)
    axes.minorticks_off()
    _label(axes, x=x_label, y=f"{_label_of(metrics, measure)}, macro average")
    _legend(axes, len(curves) + 1)

  return _draw(draw, f"{_label_of(metrics, measure)} over {x_label}")


def _thin(ticks: set[float], is_log: bool) -> list[float]:
  """Leaves out ticks whose labels would run into the one before."""
  places = {x: np.log(x) if is_log else x for x in sorted(ticks)}
  gap = 0.06 * (max(places.values()) - min(places.values()))
  kept: list[float] = []
  for x, place in places.items():
    if not kept or place - places[kept[-1]] > gap:
      kept.append(x)
  return kept


def _draw_baseline(axes: Axes, value: float, name: str) -> None:
  axes.axhline(value, color=_BASELINE, linestyle="--", label=name)


def _draw_curve(
  axes: Axes,
  label: str,
  points: Mapping[float, Mapping[str, Any]],
  baseline: float,
  number: int,
) -> None:
  xs = sorted(points)
  color = _SERIES[number % NUM_SERIES]
  low, high = np.array([points[x]["interval"] for x in xs]).T + baseline
  axes.fill_between(xs, low, high, color=color, alpha=0.15, linewidth=0)
  axes.plot(
    xs,
    [points[x]["value"] for x in xs],
    color=color,
    marker=_MARKERS[number % NUM_SERIES],
    markersize=5,
    label=label,
  )


def _describe(augmentation: Mapping[str, Any], varying: str) -> str:
  words = [augmentation["reduction"]]
  if varying != "alpha":
    words.append(f"{augmentation['alpha']:g}")
  if augmentation.get("languages"):
    words.append("+".join(augmentation["languages"]))
  number = augmentation.get("num_queries")
  if varying != "num_queries" and number:
    words.append(f"{number} {'query' if number == 1 else 'queries'}")
  return " ".join(words)


def _color(name: str, metrics: Mapping[str, Any], number: int) -> str:
  is_baseline = name == metrics["baseline"]
  return _BASELINE if is_baseline else _SERIES[number % NUM_SERIES]


def _label_of(metrics: Mapping[str, Any], measure: str) -> str:
  labels = {entry["name"]: entry["label"] for entry in metrics["measures"]}
  return labels[measure]


def _label(axes: Axes, *, x: str = "", y: str = "") -> None:
  axes.set_xlabel(x)
  # Above the axis, so that it is read without turning the head.
  axes.set_title(y, loc="left", fontsize=12)


def _legend(axes: Axes, num_entries: int) -> None:
  axes.figure.legend(
    loc="outside lower center",
    ncols=num_entries if num_entries < 4 else 2,
    handlelength=1.4,
  )


def _draw(draw: Callable[[Axes], None], label: str) -> str:
  style: dict[Any, Any] = {**_STYLE, "svg.hashsalt": label}
  with rc_context(style):
    figure = Figure(figsize=(5.2, 3.7), layout="constrained")
    draw(figure.add_subplot())
    buffer = io.StringIO()
    figure.savefig(
      buffer, format="svg", metadata={"Date": None, "Creator": None}
    )
  return _to_inline(buffer.getvalue(), label)


def _to_inline(svg: str, label: str) -> str:
  """Cuts what only a file of its own needs and lets the page style the rest."""
  svg = svg[svg.index("<svg") :]
  svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
  view_box = svg.partition('viewBox="')[2].partition('"')[0]
  # The label comes from names that a user chose.
  label = re.sub(r"[<>&\"]", "", label)
  svg = re.sub(
    r"<svg[^>]*>",
    f'<svg viewBox="{view_box}" role="img" aria-label="{label}">',
    svg,
    count=1,
  )
  svg = re.sub(
    r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL
  )
  # Names of several drawings share one page.
  prefix = "p" + hashlib.sha256(svg.encode()).hexdigest()[:8]
  svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
  svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", svg)
  svg = re.sub(r"font-family: [^;\"]+", "font-family: inherit", svg)
  svg = re.sub(r"(font: [\d.]+px) [^;\"]+", r"\1 inherit", svg)
  for color, css in _CSS.items():
    svg = svg.replace(color, css)
  return svg
