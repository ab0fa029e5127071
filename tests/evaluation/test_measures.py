"""Tests of the retrieval measures against hand-made cases and definitions."""

import json
import math
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from xqg_jax.data.answers import contains_answer
from xqg_jax.data.passages import read_passages
from xqg_jax.data.qrels import read_qrels
from xqg_jax.data.questions import Question, read_questions
from xqg_jax.errors import InputError
from xqg_jax.evaluation.relevance import judge_by_answers
from xqg_jax.evaluation.success_at_k_tokens import (
  count_tokens_to_answers,
  success_at_k_tokens,
  token_measure_name,
  tokens_to_answer,
)
from xqg_jax.evaluation.trec_measures import (
  is_defined_without_qrels,
  parse_measures,
  score_rankings,
)
from xqg_jax.evaluation.word_tokens import (
  TokenizedPassages,
  load_word_tokenizer,
)


@pytest.fixture(scope="module")
def punkt():
  """NLTK's official tokenizer, where its data is installed."""
  try:
    return load_word_tokenizer("punkt")
  except InputError as error:
    pytest.skip(f"needs NLTK's punkt_tab data ({error})")


@pytest.fixture(scope="module")
def tokenize():
  return load_word_tokenizer("no_sentences")


def ask(*answers, question_id="q", language="fi"):
  return Question(question_id, "?", language, tuple(answers))


def naive_success(texts, answers, budget, tokenize):
  """The definition, as slow and as plain as can be."""
  tokens = [token for text in texts for token in tokenize(text)]
  kept = " ".join(tokens[:budget])
  return any(answer in kept for answer in answers)


def score_one(texts, answers, budget, tokenize=str.split):
  ids = [str(number) for number in range(len(texts))]
  run = {"q": {name: -float(rank) for rank, name in enumerate(ids)}}
  scored = success_at_k_tokens(
    run,
    [ask(*answers)],
    dict(zip(ids, texts, strict=True)),
    budget=budget,
    tokenize=tokenize,
  )
  return scored["q"]


# --------------------------------------------------------------- token budgets


@pytest.mark.parametrize(
  ("answer", "budget", "expected"),
  [
    ("c d", 4, 1.0),  # ends at token 4
    ("c d", 3, 0.0),  # cut by the budget
    ("b c", 3, 1.0),  # spans two passages
    ("b  c", 9, 0.0),  # tokens are joined by one space only
    ("C", 9, 0.0),  # case-sensitive
    ("ee", 5, 1.0),  # a part of a token
    ("e f", 6, 1.0),
    ("a", 1, 1.0),
    ("absent", 9, 0.0),
    ("d ", 4, 0.0),  # its blank stands before the next token only
    ("d ", 5, 1.0),
    (" a", 9, 0.0),  # nothing stands before the first token
    (" c", 3, 1.0),
  ],
)
def test_budget_by_hand(answer, budget, expected):
  texts = ["a b", "c d", "eee f"]
  assert score_one(texts, [answer], budget) == expected
  assert naive_success(texts, [answer], budget, str.split) == bool(expected)


def test_several_answers_any_counts():
  texts = ["a b c d"]
  assert score_one(texts, ["x", "d"], 4) == 1.0
  assert score_one(texts, ["x", "d"], 3) == 0.0
  assert score_one(texts, ["x", "y"], 9) == 0.0


def test_first_of_several_answers_decides():
  passages = TokenizedPassages({"p": "a b c d e"}, str.split)
  found = tokens_to_answer(["p"], ["e", "b c"], passages, max_tokens=9)
  assert found == 3


def test_yes_no_answers():
  run = {"q1": {"p": 1.0}, "q2": {"p": 1.0}, "q3": {"p": 1.0}}
  questions = [
    ask("yes", "no", question_id="q1"),
    ask("yes", "1605", question_id="q2"),
    ask("Yes", question_id="q3"),  # only the lower-case words are skipped
  ]
  scored = success_at_k_tokens(
    run, questions, {"p": "yes no"}, budget=9, tokenize=str.split
  )
  assert scored == {"q2": 0.0, "q3": 0.0}


def test_question_without_results_fails():
  scored = success_at_k_tokens({}, [ask("x")], {}, budget=9, tokenize=str.split)
  assert scored == {"q": 0.0}


def test_order_is_by_score_and_ties_keep_the_runs_order():
  texts = {"a": "one", "b": "two", "c": "three"}
  run = {"q": {"a": 1.0, "b": 2.0, "c": 1.0}}
  counts = count_tokens_to_answers(
    run, [ask("three")], TokenizedPassages(texts, str.split), max_tokens=9
  )
  assert counts == {"q": 3}


def test_nltk_splits_what_the_answer_keeps_together(tokenize):
  # "5%" becomes "5 %", so the official measure does not find the answer.
  assert score_one(["About 5% of it."], ["5%"], 9, tokenize) == 0.0
  assert score_one(["About 5 of it."], ["5 of"], 9, tokenize) == 1.0
  # Straight quotes become other quotes.
  assert score_one(['The "Great" one'], ['"Great"'], 9, tokenize) == 0.0
  assert score_one(['The "Great" one'], ["Great ''"], 9, tokenize) == 1.0


def test_each_passage_is_tokenized_once():
  asked = []

  def tokenize(text):
    asked.append(text)
    return text.split()

  texts = {"a": "x y", "b": "y z", "c": "never needed"}
  run = {f"q{n}": {"a": 3.0, "b": 2.0, "c": 1.0} for n in range(5)}
  questions = [ask("z", question_id=f"q{n}") for n in range(5)]
  success_at_k_tokens(run, questions, texts, budget=4, tokenize=tokenize)
  assert sorted(asked) == ["x y", "y z"]


def test_absent_answers_cost_no_tokenizing():
  def refuse(text):
    raise AssertionError("not needed")

  assert score_one(["a b c"], ["absent"], 9, refuse) == 0.0


WORDS = st.sampled_from(
  "Oulu in 1605 5% \"so\" `` '' ' can't U.S. a (b) -- ... x, «y» Dr. wanna"
  " $3.5 \xa0 \u2028".split(" ")
)
TEXTS = st.lists(WORDS, min_size=1, max_size=8).map(" ".join)
# Answers that are likely to stand in the texts, even in pieces.
ANSWERS = st.lists(
  st.lists(WORDS, min_size=1, max_size=3).map(" ".join)
  | st.sampled_from([" ", '"', "1605 ", " in", "''", "5", "", "a ", "``"]),
  min_size=1,
  max_size=3,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=5), ANSWERS, st.integers(1, 20))
@example(["\xa0"], [""], 1)
def test_equals_the_definition(texts, answers, budget):
  tokenize = load_word_tokenizer("no_sentences")
  expected = naive_success(texts, answers, budget, tokenize)
  assert score_one(texts, answers, budget, tokenize) == float(expected)


@pytest.mark.parametrize("tokenizer", ["punkt", "no_sentences"])
def test_equals_the_definition_on_xor_tydi(shared_dir, request, tokenizer):
  """All dev questions, random rankings, several budgets, no tolerance."""
  name = "tokenize" if tokenizer == "no_sentences" else tokenizer
  tokenize = request.getfixturevalue(name)
  questions = read_questions(
    shared_dir / "data/xor_tydi/xor_dev_retrieve_eng_span_v1_1.jsonl"
  )
  texts = {
    passage.passage_id: passage.text
    for passage in read_passages(shared_dir / "data/xquad_xor/corpus.tsv")
  }
  rng = random.Random(7)
  run = {
    q.question_id: {
      p: -float(rank) for rank, p in enumerate(rng.sample(sorted(texts), 60))
    }
    for q in questions
  }
  counts = count_tokens_to_answers(
    run, questions, TokenizedPassages(texts, tokenize), max_tokens=5000
  )
  tokens = {key: tokenize(text) for key, text in texts.items()}
  assert len(questions) == 2110
  assert len(counts) == 1928
  for question in questions:
    answers = [a for a in question.answers if a not in ("yes", "no")]
    if not answers:
      assert question.question_id not in counts
      continue
    ranked = [t for p in run[question.question_id] for t in tokens[p]]
    for budget in (30, 500, 2000, 5000):
      kept = " ".join(ranked[:budget])
      expected = any(answer in kept for answer in answers)
      assert (counts[question.question_id] <= budget) == expected


def test_names():
  assert token_measure_name(5000) == "R@5kt"
  assert token_measure_name(1500) == "R@1500t"


# ------------------------------------------------------------------ tokenizers


def test_absent_punkt_names_both_ways(tmp_path):
  with pytest.raises(InputError) as error:
    load_word_tokenizer("punkt", punkt_dir=tmp_path)
  line = str(error.value)
  assert "python -m nltk.downloader punkt_tab" in line
  assert "PUNKT_DIR" in line
  assert "no_sentences" in line
  assert str(tmp_path) in line


def test_unknown_tokenizer():
  with pytest.raises(InputError, match="unknown tokenizer 'words'"):
    load_word_tokenizer("words")


def test_punkt_is_word_tokenize(punkt):
  text = "It costs $3.88 in New York. Mr. Smith can't pay."
  assert punkt(text) == (
    "It costs $ 3.88 in New York . Mr. Smith ca n't pay .".split()
  )


# --------------------------------------------------------------- TREC measures

RUN = {
  "q1": {"a": 3.0, "b": 2.0, "c": 1.0, "d": 0.5},
  "q2": {"d": 1.0, "c": 0.5},
}
QRELS = {
  "q1": {"b": 1, "d": 1, "e": 1},
  "q2": {"a": 1},
  "q3": {"a": 1},  # not in the run
}


def test_measures_by_hand():
  measures = parse_measures(["RR@10", "Success@1", "Success@2", "R@4", "RR@1"])
  scores = score_rankings(RUN, QRELS, measures)
  assert scores["RR@10"] == {"q1": 0.5, "q2": 0.0, "q3": 0.0}
  assert scores["RR@1"] == {"q1": 0.0, "q2": 0.0, "q3": 0.0}
  assert scores["Success@1"] == {"q1": 0.0, "q2": 0.0, "q3": 0.0}
  assert scores["Success@2"] == {"q1": 1.0, "q2": 0.0, "q3": 0.0}
  # Recall is a share: two of three relevant passages.
  assert scores["R@4"] == {"q1": pytest.approx(2 / 3), "q2": 0.0, "q3": 0.0}


def test_ndcg_by_hand():
  scores = score_rankings(RUN, QRELS, parse_measures(["nDCG@10"]))
  gain = 1 / math.log2(3) + 1 / math.log2(5)
  ideal = 1 / math.log2(2) + 1 / math.log2(3) + 1 / math.log2(4)
  assert scores["nDCG@10"]["q1"] == pytest.approx(gain / ideal)


def test_ties_follow_the_run():
  # trec_eval would put "z" before "a".
  run = {"q": {"a": 1.0, "z": 1.0}}
  for relevant, expected in (("a", 1.0), ("z", 0.5)):
    qrels = {"q": {relevant: 1}}
    scores = score_rankings(run, qrels, parse_measures(["RR@10"]))
    assert scores["RR@10"]["q"] == expected


def test_empty_run_scores_zero():
  scores = score_rankings({}, {"q": {"a": 1}}, parse_measures(["RR@10"]))
  assert scores == {"RR@10": {"q": 0.0}}


@pytest.mark.parametrize("name", ["Rubbish@10", "RR@", "", "__import__('os')"])
def test_unknown_measure(name):
  with pytest.raises(InputError, match="unknown measure"):
    parse_measures([name])


def test_which_measures_need_qrels():
  measures = parse_measures(["RR@10", "Success@5", "nDCG@10", "R@5", "AP"])
  defined = [n for n, m in measures.items() if is_defined_without_qrels(m)]
  assert defined == ["RR@10", "Success@5"]


# ------------------------------------------------------------------- relevance


def test_trec_qrels(tmp_path):
  path = tmp_path / "qrels.txt"
  path.write_text("q1 0 a 1\nq1 0 b 0\n\nq2\t0\tc\t2\n")
  assert read_qrels(path) == {"q1": {"a": 1, "b": 0}, "q2": {"c": 2}}


def test_json_qrels(tmp_path):
  path = tmp_path / "qrels.jsonl"
  rows = [{"id": "q1", "chunks": [1, "b"]}, {"id": "q2", "chunks": []}]
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  assert read_qrels(path, field="chunks") == {"q1": {"1": 1, "b": 1}}


@pytest.mark.parametrize(
  ("name", "text", "field", "message"),
  [
    ("a.txt", "q1 0 a 1\nq1 a 1\n", None, "a.txt:2: found 'q1 a 1'"),
    ("a.txt", "q1 0 a yes\n", None, "a.txt:1: .*four columns"),
    ("a.txt", "q1 0 a 1\nq1 0 a 0\n", None, "a.txt:2: .*judged twice"),
    ("a.txt", "", None, "no judgements"),
    ("a.jsonl", '{"id": "q", "c": [1]}\n', None, "set QRELS_FIELD"),
    ("a.jsonl", '{"id": "q", "c": [1]}\n', "d", "a.jsonl:1: .*'d' is missing"),
    ("a.jsonl", '{"id": "q", "c": "1"}\n', "c", "a.jsonl:1: .*not a list"),
    ("a.jsonl", '{"c": [1]}\n', "c", "a.jsonl:1: .*'id' is missing"),
  ],
)
def test_bad_qrels(tmp_path, name, text, field, message):
  (tmp_path / name).write_text(text)
  with pytest.raises(InputError, match=message):
    read_qrels(tmp_path / name, field=field)


def test_answers_judge_passages():
  texts = {"a": "Oulu, founded in 1605.", "b": "1605th", "c": "THE CAFÉ"}
  run = {"q1": {"a": 3.0, "b": 2.0, "c": 1.0}, "q2": {"c": 1.0}}
  questions = [
    ask("Founded in 1605", question_id="q1"),
    ask("the cafe\u0301", question_id="q2"),  # composed otherwise
    ask("yes", question_id="q3"),
  ]
  assert judge_by_answers([run], questions, texts) == {
    "q1": {"a": 1, "b": 0, "c": 0},
    "q2": {"c": 1},
  }
  shallow = judge_by_answers([run], questions, texts, depth=1)
  assert shallow["q1"] == {"a": 1}


def test_answers_are_matched_by_whole_words():
  assert contains_answer("In 1605 it was.", ["1605"])
  assert not contains_answer("In 16055 it was.", ["1605"])
  assert contains_answer("a b c", ["x", "B C"])
  assert not contains_answer("a b", [""])
