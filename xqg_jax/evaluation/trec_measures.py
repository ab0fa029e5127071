"""TREC measures by `ir_measures`: names, and scores of rankings."""

from collections.abc import Iterable, Mapping
from typing import Any

from xqg_jax.data.runs import Run, sort_neighbors
from xqg_jax.errors import InputError


def parse_measures(names: Iterable[str]) -> dict[str, Any]:
  """Parses names of ir_measures: "RR@10", "nDCG@10", "R@100", "Success@20".

  Returns:
    The measure objects by the names given.

  Raises:
    InputError: a name that ir_measures does not know.
  """
  import ir_measures

  parsed = {}
  for name in names:
    try:
      parsed[name] = ir_measures.parse_measure(name)
    except (NameError, ValueError, SyntaxError) as error:
      raise InputError(
        f"unknown measure {name!r} ({error})",
        mend="use for example RR@10, nDCG@10, R@100 or Success@20",
      ) from None
  return parsed


def is_defined_without_qrels(measure: Any) -> bool:
  """Whether the measure needs only the ranking's own passages judged.

  Reciprocal rank and success do; recall and nDCG need to know all relevant
  passages of the collection.
  """
  return getattr(measure, "NAME", None) in ("RR", "Success", "P")


def score_rankings(
  run: Run,
  qrels: Mapping[str, Mapping[str, int]],
  measures: Mapping[str, Any],
) -> dict[str, dict[str, float]]:
  """Scores a run by ir_measures.

  Ties are broken by the run's own order, as everywhere in this package, not
  by passage id as trec_eval does.

  Args:
    run: {question_id: {passage_id: score}}.
    qrels: {question_id: {passage_id: relevance}}.
    measures: from `parse_measures`.

  Returns:
    {measure name: {question_id: value}} for the judged questions; one that
    the run lacks gets 0.
  """
  import ir_measures

  ranked = {
    q: {p: float(-rank) for rank, p in enumerate(sort_neighbors(run[q]))}
    for q in qrels
    if run.get(q)
  }
  values = {name: dict.fromkeys(qrels, 0.0) for name in measures}
  if not ranked:
    return values
  # A measure may have several names, such as R@100 and Recall@100.
  names: dict[Any, list[str]] = {}
  for name, measure in measures.items():
    names.setdefault(measure, []).append(name)
  for metric in ir_measures.iter_calc(names, qrels, ranked):
    for name in names[metric.measure]:
      values[name][metric.query_id] = metric.value
  return values
