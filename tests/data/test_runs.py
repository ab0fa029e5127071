"""TREC runs and XOR-Retrieve predictions, read and written."""

import json

import numpy as np
import pytest

from xqg_jax.data import predictions
from xqg_jax.data.passages import Passage
from xqg_jax.data.questions import Question
from xqg_jax.data.runs import read_run, write_run
from xqg_jax.errors import InputError


def _write(path, text):
  path.write_text(text, encoding="utf-8")
  return path


def test_run_round_trip_keeps_every_bit_and_the_order_of_ties(tmp_path):
  run = {
    "q1": {"p9": 0.1 + 0.2, "p1": float(np.float32(1 / 3)), "p0": -1e-30},
    "q0": {"b": 2.0, "a": 2.0, "c": 2.0},
  }
  write_run(tmp_path / "run.trec", run, tag="tag")
  back = read_run(tmp_path / "run.trec")
  assert back == run
  assert list(back) == ["q1", "q0"]
  assert list(back["q1"]) == ["p1", "p9", "p0"]
  assert list(back["q0"]) == ["b", "a", "c"]


def test_run_file_is_trec_text(tmp_path):
  write_run(tmp_path / "r", {"7": {"p2": 0.5, "p1": 1.25}}, tag="base")
  assert (tmp_path / "r").read_text() == (
    "7 Q0 p1 1 1.25 base\n7 Q0 p2 2 0.5 base\n"
  )


def test_reading_orders_by_score_and_then_by_rank(tmp_path):
  path = _write(
    tmp_path / "r",
    "q Q0 a 3 1.0 x\nq Q0 b 1 2.0 x\n\nq\tQ0\tc 2 1.0 x\r\n",
  )
  assert list(read_run(path)["q"].items()) == [
    ("b", 2.0),
    ("c", 1.0),
    ("a", 1.0),
  ]


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("q Q0 a 1 1.0 x\nq Q0 b 2\n", "r:2: found 4 fields, expected 6"),
    ("q Q0 a first 1.0 x\n", "r:1: rank 'first'"),
    ("q Q0 a 1 high x\n", "r:1: rank '1' and score 'high'"),
    ("q Q0 a 1 nan x\n", "r:1: the score 'nan' is not finite"),
    ("q Q0 a 1 -inf x\n", "r:1: the score '-inf' is not finite"),
    (
      "q Q0 a 1 2 x\nz Q0 a 1 2 x\nq Q0 a 2 1 x\n",
      "r:3: passage 'a' appears twice for question 'q'",
    ),
    ("\n", "no results in it"),
  ],
)
def test_bad_run_files_are_refused_by_line(tmp_path, text, message):
  with pytest.raises(InputError, match=message.replace("?", r"\?")) as error:
    read_run(_write(tmp_path / "r", text))
  assert str(tmp_path / "r") in str(error.value)
  assert "\n" not in str(error.value)


def test_missing_run_file(tmp_path):
  with pytest.raises(InputError, match="no such file"):
    read_run(tmp_path / "absent.trec")


@pytest.mark.parametrize(
  ("run", "message"),
  [
    ({"q": {"p": float("nan")}}, "score of passage 'p'"),
    ({"q": {"p": float("inf")}}, "score of passage 'p'"),
    ({"q": {"two words": 1.0}}, "the passage id 'two words'"),
    ({"": {"p": 1.0}}, "the question id ''"),
  ],
)
def test_unwritable_runs_leave_no_file(tmp_path, run, message):
  with pytest.raises(InputError, match=message):
    write_run(tmp_path / "r", run)
  assert list(tmp_path.iterdir()) == []


def _passages(words):
  return {f"p{i}": Passage(f"p{i}", f"t{i} " * words) for i in range(10)}


def test_predictions_are_what_the_official_scorer_takes(tmp_path):
  run = {"1": {"p2": 1.0, "p0": 3.0, "p1": 2.0}}
  questions = [Question("1", "?", "ja"), Question("2", "?", "te")]
  path = tmp_path / "p.json"
  predictions.write_predictions(
    path, run, questions=questions, passages=_passages(1)
  )
  assert json.loads(path.read_text()) == [
    {"id": "1", "lang": "ja", "ctxs": ["t0 ", "t1 ", "t2 "]},
    {"id": "2", "lang": "te", "ctxs": []},
  ]
  assert predictions.read_predictions(path) == [
    predictions.Prediction("1", "ja", ("t0 ", "t1 ", "t2 ")),
    predictions.Prediction("2", "te", ()),
  ]


def test_predictions_stop_when_5000_tokens_are_certain(tmp_path):
  run = {"1": {f"p{i}": -float(i) for i in range(10)}}
  questions = [Question("1", "?", "ja")]
  for words, expected in ((2500, 2), (2499, 3), (5001, 1), (100, 10)):
    predictions.write_predictions(
      tmp_path / "p", run, questions=questions, passages=_passages(words)
    )
    texts = predictions.read_predictions(tmp_path / "p")[0].texts
    assert len(texts) == expected
    assert sum(len(t.split()) for t in texts) >= min(5000, words * 10)


def test_predictions_refuse_a_passage_of_another_collection(tmp_path):
  with pytest.raises(InputError, match="names passage 'zz'"):
    predictions.write_predictions(
      tmp_path / "p",
      {"1": {"zz": 1.0}},
      questions=[Question("1", "?", "ja")],
      passages=_passages(1),
    )
  assert not (tmp_path / "p").exists()


def test_prediction_files_of_others_are_read(tmp_path):
  dpr = {"id": "wiki:7", "title": "T", "text": "b", "has_answer": False}
  rows = [
    {"id": 12345, "lang": " ar", "ctxs": ["a"], "more": 1},
    {"id": "6", "lang": "te", "question": "?", "answers": [], "ctxs": [dpr]},
  ]
  assert predictions.read_predictions(
    _write(tmp_path / "p", json.dumps(rows))
  ) == [
    predictions.Prediction("12345", "ar", ("a",)),
    predictions.Prediction("6", "te", ("b",)),
  ]


@pytest.mark.parametrize(
  ("rows", "message"),
  [
    ({"id": 1}, "not a list of predictions"),
    ([], "not a list of predictions"),
    ([1], "entry 1: found a JSON int"),
    ([{"id": 1, "lang": "ja"}], "entry 1: the field 'ctxs' is missing"),
    ([{"id": 1, "ctxs": []}], "entry 1: the field 'lang' is missing"),
    ([{"id": 1, "lang": "ja", "ctxs": "abc"}], "'ctxs' is not a list"),
    ([{"id": 1, "lang": "ja", "ctxs": [1]}], "'ctxs' is not a list"),
    ([{"id": 1, "lang": "ja", "ctxs": [{}]}], "'ctxs' is not a list"),
    (
      [{"id": i, "lang": "ja", "ctxs": []} for i in (1, 2, "1")],
      "entry 3: question '1' appears twice",
    ),
  ],
)
def test_bad_prediction_files_are_refused(tmp_path, rows, message):
  with pytest.raises(InputError, match=message):
    predictions.read_predictions(_write(tmp_path / "p", json.dumps(rows)))
