"""HTML report of evaluations: one self-contained page."""

import functools
import itertools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jinja2
import markupsafe

from xqg_jax.data.generated_queries import read_generated_queries
from xqg_jax.data.json_lines import read_json_lines
from xqg_jax.data.languages import LANGUAGES
from xqg_jax.evaluation.examples import choose_measure
from xqg_jax.evaluation.report import plots
from xqg_jax.evaluation.report.provenance import (
  describe_configs,
  find_folders,
  list_fingerprints,
)
from xqg_jax.evaluation.results import Evaluation, read_examples
from xqg_jax.evaluation.significance import significance_mark
from xqg_jax.evaluation.tables import format_difference, format_p
from xqg_jax.io.paths import to_path
from xqg_jax.io.typed_json import check_json

METRICS_ROWS_FILE = "metrics.jsonl"
_TEMPLATE = "report.html.jinja"
# Measures with a plot of their own; the table has all.
_PLOTTED = 3
_MAX_BARS = 4
_MAX_QUERIES = 5


def render_page(
  evaluations: Sequence[Evaluation],
  *,
  model_dirs: Sequence[str | os.PathLike] = (),
  generated_queries: str | os.PathLike | None = None,
  title: str,
  road: Iterable[str] = (),
) -> str:
  """Renders evaluations, losses of training and provenance as one HTML page.

  Args:
    evaluations: shown in order, each with its tables, plots and examples.
    model_dirs: folders of trained models, for their loss curves and configs.
    generated_queries: shown beside the examples; a file or folder of shards.
    title: heading of the page.
    road: names of the stages in the order in which their configs are shown.

  Raises:
    InputError: a malformed file.
  """
  examples = [read_examples(evaluation) for evaluation in evaluations]
  losses = [_describe_losses(folder) for folder in model_dirs]
  queries = _collect_queries(generated_queries, examples)
  others = [*model_dirs, *filter(None, [generated_queries])]
  return (
    _environment()
    .get_template(_TEMPLATE)
    .render(
      title=title,
      sections=[
        _describe_section(evaluation, example, queries)
        for evaluation, example in zip(evaluations, examples, strict=True)
      ],
      losses=[loss for loss in losses if loss["svg"]],
      fingerprints=list_fingerprints(evaluations, others),
      configs=describe_configs(find_folders(evaluations, others), road),
    )
  )


@functools.cache
def _environment() -> jinja2.Environment:
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader("xqg_jax.evaluation.report", "."),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters |= {
    "difference": format_difference,
    "p_value": format_p,
    "mark": significance_mark,
    "language_name": _language_name,
    "highlight": highlight,
    "nearest": find_nearest,
  }
  return environment


def _language_name(code: str) -> str:
  return LANGUAGES[code].name if code in LANGUAGES else code


# -------------------------------------------------------------------- sections


def _describe_section(
  evaluation: Evaluation,
  examples: Mapping[str, Any],
  queries: Mapping[str, Mapping[str, Sequence[str]]],
) -> dict[str, Any]:
  """What the template shows of one evaluation."""
  metrics = evaluation.metrics
  names = [measure["name"] for measure in metrics["measures"]]
  variants = [v for v in metrics["variants"] if v != metrics["baseline"]]
  finest = choose_measure(names)
  bars = _choose_bars(metrics, finest)
  # The first was named before its scores were seen; the best would flatter.
  shown = variants[0] if variants else None
  return {
    "name": evaluation.folder.name,
    "metrics": metrics,
    "best": {name: _best(metrics, name) for name in names},
    "headline": _headline(metrics, shown, names),
    "shown": shown,
    "curves": _curves(metrics, names),
    "bars": [
      plots.plot_languages(metrics, name, bars) for name in names[:_PLOTTED]
    ],
    "examples": examples,
    "queries": queries,
  }


def _best(metrics: Mapping[str, Any], measure: str) -> dict[str, float]:
  """The highest value of each column of a table."""
  entries = [v["measures"][measure] for v in metrics["variants"].values()]
  columns = list(entries[0]["languages"])
  best = {
    code: max(entry["languages"][code]["value"] for entry in entries)
    for code in columns
  }
  return best | {"macro": max(entry["macro"]["value"] for entry in entries)}


def _headline(
  metrics: Mapping[str, Any], shown: str | None, names: Sequence[str]
) -> list[dict[str, Any]]:
  if shown is None:
    return []
  labels = {entry["name"]: entry["label"] for entry in metrics["measures"]}
  variants = metrics["variants"]
  return [
    {
      "label": labels[name],
      "before": variants[metrics["baseline"]]["measures"][name]["macro"],
      "after": variants[shown]["measures"][name]["macro"],
    }
    for name in names
  ]


def _curves(metrics: Mapping[str, Any], names: Sequence[str]) -> list[str]:
  drawn = [
    plot(metrics, name)
    for plot in (plots.plot_alphas, plots.plot_num_queries)
    for name in names[:_PLOTTED]
  ]
  return [svg for svg in drawn if svg]


def _choose_bars(metrics: Mapping[str, Any], measure: str) -> list[str]:
  """The baseline, the first variant and those with the best macro averages."""
  described = {
    name: variant["augmentation"]
    for name, variant in metrics["variants"].items()
    if name != metrics["baseline"]
  }
  # One of a curve may be what a run was made with, too.
  variants = [
    name
    for number, (name, augmentation) in enumerate(described.items())
    if not augmentation or augmentation not in list(described.values())[:number]
  ]
  ranked = variants[:1] + sorted(
    variants[1:],
    key=lambda v: (
      -metrics["variants"][v]["measures"][measure]["macro"]["value"]
    ),
  )
  ranked = ranked[: _MAX_BARS - 1]
  return [metrics["baseline"], *(v for v in variants if v in ranked)]


# -------------------------------------------------------------------- examples


def _collect_queries(
  path: str | os.PathLike | None, examples: Iterable[Mapping[str, Any]]
) -> dict[str, dict[str, Sequence[str]]]:
  """Generated queries of the passages that the examples show."""
  if path is None:
    return {}
  wanted = {
    passage["id"]
    for found in examples
    for example in (*found.get("won", ()), *found.get("lost", ()))
    for passage in itertools.chain(*example["passages"])
  }
  return {
    item.passage_id: {
      language: texts[:_MAX_QUERIES]
      for language, texts in item.queries.items()
      if texts
    }
    for _, item in read_generated_queries(to_path(path))
    if item.passage_id in wanted and any(item.queries.values())
  }


def highlight(text: str, answers: Sequence[str]) -> markupsafe.Markup:
  """Escapes a text and marks the answers in it.

  >>> highlight("<b>1605</b> in Oulu", ["1605"])
  Markup('&lt;b&gt;<mark>1605</mark>&lt;/b&gt; in Oulu')
  """
  needles = sorted(filter(str.strip, answers), key=len, reverse=True)
  if not needles:
    return markupsafe.escape(text)
  pattern = "|".join(re.escape(needle) for needle in needles)
  # Odd pieces are what the group matched.
  pieces = re.split(rf"(?<!\w)({pattern})(?!\w)", text, flags=re.IGNORECASE)
  return markupsafe.Markup("").join(
    markupsafe.Markup("<mark>{}</mark>").format(piece) if odd else piece
    for odd, piece in zip(itertools.cycle((0, 1)), pieces, strict=False)
  )


def find_nearest(question: str, queries: Sequence[str]) -> str | None:
  """The query whose wording is most like the question's, by pairs of letters.

  >>> find_nearest("Where is Oulu?", ["Who is she?", "Where was Oulu?"])
  'Where was Oulu?'
  """

  def likeness(query: str) -> float:
    mine, its = (set(itertools.pairwise(t.lower())) for t in (question, query))
    return len(mine & its) / max(1, len(mine | its))

  return max(queries, key=likeness, default=None)


# ---------------------------------------------------------------------- losses


def _describe_losses(folder: str | os.PathLike) -> dict[str, Any]:
  path = to_path(folder) / METRICS_ROWS_FILE
  rows = [
    check_json(row, dict[str, float | None], where=where)
    for where, row in read_json_lines(path)
  ]
  svg = plots.plot_losses([row for row in rows if row.get("step") is not None])
  return {"name": to_path(folder).name, "svg": svg}
