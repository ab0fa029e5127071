"""Relevance judgements in both forms, wherever they are read."""

import json

import pytest

from xqg_jax.data.pair_folder import read_pairs
from xqg_jax.data.qrels import read_qrels
from xqg_jax.errors import InputError


@pytest.mark.parametrize(
  ("line", "message"),
  [
    ("q1 0 d1 nope", "expected four columns that end in a whole number"),
    ("q1 0 d1 --1", "expected four columns that end in a whole number"),
    ("q1 0 d1 1.5", "expected four columns that end in a whole number"),
    ("q1 0 d1 " + "1" * 5000, "expected four columns that end in a whole"),
    ("q1 0 d1", "expected four columns that end in a whole number"),
  ],
)
def test_what_is_no_judgement(tmp_path, line, message):
  path = tmp_path / "qrels.txt"
  path.write_text(f"q0 0 d0 1\n{line}\n")
  with pytest.raises(InputError, match=message) as error:
    read_qrels(path)
  assert "qrels.txt:2: " in str(error.value)


@pytest.mark.parametrize(
  ("row", "message"),
  [
    ({"id": None, "relevant": ["d1"]}, "'id' is null, not a string"),
    ({"id": "q", "relevant": [None]}, "'relevant' is null, not a string"),
    ({"id": "q", "relevant": [{"docid": "d"}]}, "not a string"),
    ({"id": "q", "relevant": ["a b"]}, "passage id 'a b' is empty or has bla"),
    ({"id": "q", "relevant": ["\ud83d"]}, "half a character"),
  ],
)
def test_what_is_no_list_of_ids(tmp_path, row, message):
  path = tmp_path / "qrels.jsonl"
  path.write_text(json.dumps(row) + "\n")
  with pytest.raises(InputError, match=message):
    read_qrels(path, field="relevant")


def test_a_mark_and_blanks_that_are_not_of_ascii(tmp_path):
  path = tmp_path / "qrels.txt"
  path.write_text("\ufeffq1 0\td\u00a01  2\nq1 Q0 d2 -1\n", encoding="utf-8")
  assert read_qrels(path) == {"q1": {"d\u00a01": 2, "d2": -1}}


def test_pairs_hold_relevant_passages_alone(tmp_path):
  question = {"id": "q", "question": "Where?", "lang": "fi"}
  (tmp_path / "questions_dev.jsonl").write_text(json.dumps(question) + "\n")
  (tmp_path / "passages.tsv").write_text(
    "".join(f"{i}\ttext {i}\t\n" for i in range(4))
  )
  judged = "".join(f"q 0 {i} {r}\n" for i, r in enumerate((0, 1, -1, 2)))
  (tmp_path / "qrels_dev.tsv").write_text(judged)
  (pair,) = read_pairs(tmp_path)
  assert [p.passage_id for p in pair.positives] == ["1", "3"]
