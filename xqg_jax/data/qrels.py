"""Qrels: relevance judgements of TREC's form, or lists of ids in JSON lines."""

import os
import re
from collections.abc import Iterator

from xqg_jax.data.ids import split_columns
from xqg_jax.data.json_lines import (
  get_field,
  get_id,
  read_json_lines,
  to_id,
)
from xqg_jax.errors import InputError
from xqg_jax.io.files import read_lines
from xqg_jax.io.paths import to_path

# {question id: {passage id: relevance}}, as in TREC.
Qrels = dict[str, dict[str, int]]

_RELEVANCE = re.compile("[+-]?[0-9]{1,9}")


def read_qrels(path: str | os.PathLike, *, field: str | None = None) -> Qrels:
  """Reads relevance judgements.

  TREC qrels have four columns: question id, iteration, passage id, relevance.
  A `.jsonl` file has an object a line with `id` and a list of the relevant
  passages' ids under the name given by `field`.

  Returns:
    {question_id: {passage_id: relevance}}.

  Raises:
    InputError: file missing or empty, or a malformed line.
  """
  is_json = ".jsonl" in to_path(path).suffixes
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
  path: str | os.PathLike,
) -> Iterator[tuple[str, str, str, int]]:
  for where, line in read_lines(path):
    columns = split_columns(line)
    if not columns:
      continue
    if len(columns) != 4 or not _RELEVANCE.fullmatch(columns[3]):
      raise InputError(
        f"found {line[:80]!r}, expected four columns that end in a whole "
        "number",
        where=where,
        mend="write question id, 0, passage id, relevance",
      )
    yield where, columns[0], columns[2], int(columns[3])


def _parse_json_qrels(
  path: str | os.PathLike, field: str | None
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
    question_id = get_id(row, "id", where, kind="question")
    for value in passage_ids:
      passage_id = to_id(value, field, where, kind="passage")
      yield where, question_id, passage_id, 1
