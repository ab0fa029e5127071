"""Relevance of passages: judged by people (qrels) or by answer strings."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from xqg_jax.data.answers import scored_answers, to_words
from xqg_jax.data.json_lines import get_field, read_json_lines
from xqg_jax.data.questions import Question
from xqg_jax.data.runs import Run, sort_neighbors
from xqg_jax.errors import InputError
from xqg_jax.io.files import read_lines

# {question id: {passage id: relevance}}, as in TREC.
Qrels = dict[str, dict[str, int]]


def read_qrels(path: str | Path, *, field: str | None = None) -> Qrels:
  """Reads relevance judgements.

  TREC qrels have four columns: question id, iteration, passage id, relevance.
  A `.jsonl` file has an object a line with `id` and a list of the relevant
  passages' ids under the name given by `field`.

  Returns:
    {question_id: {passage_id: relevance}}.

  Raises:
    InputError: file missing or empty, or a malformed line.
  """
  is_json = ".jsonl" in Path(path).suffixes
  parse = _parse_json_qrels(path, field) if is_json else _parse_trec_qrels(path)
  qrels: Qrels = {}
  for where, question_id, passage_id, relevance in parse:
    judged = qrels.setdefault(question_id, {})
    if passage_id in judged:
      raise InputError(
        f"passage {passage_id!r} is judged twice for question {question_id!r}",
        where=where,
        mend="remove one of the two",
      )
    judged[passage_id] = relevance
  if not qrels:
    raise InputError("no judgements in it", where=path, mend="check the file")
  return qrels


def _parse_trec_qrels(
  path: str | Path,
) -> Iterator[tuple[str, str, str, int]]:
  for where, line in read_lines(path):
    columns = line.split()
    if not columns:
      continue
    if len(columns) != 4 or not columns[3].lstrip("-").isdecimal():
      raise InputError(
        f"found {line!r}, expected four columns that end in a whole number",
        where=where,
        mend="write question id, 0, passage id, relevance",
      )
    yield where, columns[0], columns[2], int(columns[3])


def _parse_json_qrels(
  path: str | Path, field: str | None
) -> Iterator[tuple[str, str, str, int]]:
  if field is None:
    raise InputError(
      "JSONL qrels need the name of the field that lists the passages",
      where=path,
      mend="set QRELS_FIELD",
    )
  for where, row in read_json_lines(path):
    passage_ids = get_field(row, field, where)
    if not isinstance(passage_ids, list):
      raise InputError(
        f"{field!r} is not a list of passage ids",
        where=where,
        mend=f'write "{field}": ["1", "2"]',
      )
    for passage_id in passage_ids:
      yield where, str(get_field(row, "id", where)), str(passage_id), 1


def judge_by_answers(
  rankings: Iterable[Run],
  questions: Iterable[Question],
  texts: Mapping[str, str],
  *,
  depth: int | None = None,
) -> Qrels:
  """Judges retrieved passages by whether they contain an answer.

  As in the evaluation of DPR (Karpukhin et al. 2020): an answer counts when
  its words, in any case, follow one another in the passage's text. Answers
  "yes" and "no" never count. Only passages of the rankings are judged.

  Args:
    rankings: the runs whose passages to judge.
    questions: the questions with their answers.
    texts: text by passage id.
    depth: how many passages of each ranking to judge; all by default.

  Returns:
    {question_id: {passage_id: 0 or 1}} of the questions that have answers.
  """
  rankings = list(rankings)
  words: dict[str, str] = {}
  qrels: Qrels = {}
  for question in questions:
    answers = [to_words(a) for a in scored_answers(question)]
    if not answers:
      continue
    judged = qrels.setdefault(question.question_id, {})
    for run in rankings:
      ranked = list(sort_neighbors(run.get(question.question_id, {})))
      for passage_id in ranked[:depth]:
        if passage_id not in words:
          words[passage_id] = to_words(texts[passage_id])
        judged[passage_id] = int(any(a in words[passage_id] for a in answers))
  return qrels
