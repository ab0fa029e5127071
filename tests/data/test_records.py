"""The collection formats, and one clear line for each defect."""

import gzip
import io
import json

import pytest

from xqg_jax.data import generated_queries, questions
from xqg_jax.data.passages import Passage, read_passages, write_passages
from xqg_jax.errors import InputError


def _write(path, *lines):
  path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
  return path


def _error(call):
  with pytest.raises(InputError) as error:
    call()
  assert "\n" not in str(error.value)
  return str(error.value)


def test_tsv_with_and_without_header_and_quotes(tmp_path):
  expected = [
    Passage("1", 'the "Great" Theatre', "Warsaw"),
    Passage("2", '"Yes" and "no"', ""),
  ]
  rows = ['1\t"the ""Great"" Theatre"\tWarsaw', '2\t"Yes" and "no"\t']
  for header in ([], ["id\ttext\ttitle"]):
    path = _write(tmp_path / "p.tsv", *header, *rows)
    assert list(read_passages(path)) == expected


def test_passages_round_trip_through_gzip(tmp_path):
  passages = [Passage("a", 'x "y" z', 'T "q"'), Passage("b", "ä", "")]
  file = io.StringIO()
  assert write_passages(file, passages) == 2
  path = tmp_path / "p.tsv.gz"
  path.write_bytes(gzip.compress(file.getvalue().encode()))
  assert list(read_passages(path)) == passages


def test_jsonl_passages(tmp_path):
  path = _write(
    tmp_path / "p.jsonl", '{"docid": 7, "text": "t", "title": null}'
  )
  assert list(read_passages(path)) == [Passage("7", "t", "")]


@pytest.mark.parametrize(
  ("row", "message"),
  [
    ({"text": None}, '\'text\' is null, not a string; write "text": "..."'),
    ({"text": 5}, "'text' is 5, not a string"),
    ({"title": ["t"]}, "'title' is [\"t\"], not a string"),
    ({"docid": None}, "'docid' is null, not a string"),
    ({"docid": True}, "'docid' is true, not a string"),
  ],
)
def test_json_passages_of_another_type(tmp_path, row, message):
  row = {"docid": "1", "text": "t"} | row
  path = _write(tmp_path / "p.jsonl", json.dumps(row))
  error = _error(lambda: list(read_passages(path)))
  assert f"p.jsonl:1: {message}" in error


@pytest.mark.parametrize(
  ("lines", "message"),
  [
    (["1\ta"], None),
    (["1"], "p.tsv:1: found 1 tab-separated fields, expected 3"),
    (["1\ta\tb", "2\ta\tb\tc"], "p.tsv:2: found 4 tab-separated fields"),
    (["1\ta\tb", "1\tc\td"], "p.tsv:2: passage id '1' appears twice"),
    (["1\t \tb"], "p.tsv:1: passage '1' has an empty text"),
    ([], "p.tsv: no passages in it"),
    (["id\ttext\ttitle"], "p.tsv: no passages in it"),
  ],
)
def test_bad_passages_are_told_with_their_line(tmp_path, lines, message):
  path = _write(tmp_path / "p.tsv", *lines)
  if message is None:
    assert len(list(read_passages(path))) == len(lines)
  else:
    assert message in _error(lambda: list(read_passages(path)))


def test_missing_file_and_unknown_suffix(tmp_path):
  assert "no such file" in _error(
    lambda: list(read_passages(tmp_path / "none.tsv"))
  )
  assert "suffix '.csv'" in _error(
    lambda: list(read_passages(tmp_path / "p.csv"))
  )


def _question(**changes):
  row = {
    "id": "1",
    "question": "Где?",
    "lang": " ru",
    "answers": ["x"],
    "split": "dev",
    **changes,
  }
  return json.dumps({k: v for k, v in row.items() if v is not None})


def test_question_labels_are_stripped(tmp_path):
  path = _write(tmp_path / "q.jsonl", _question())
  assert questions.read_questions(path, require_answers=True) == [
    questions.Question("1", "Где?", "ru", ("x",), "dev")
  ]


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"lang": "xx"}, "q.jsonl:1: unknown language 'xx'"),
    ({"answers": []}, "q.jsonl:1: question '1' has no answers"),
    ({"answers": None}, "q.jsonl:1: question '1' has no answers"),
    ({"answers": "x"}, "q.jsonl:1: 'answers' is not a list of strings"),
    ({"answers": 5}, "q.jsonl:1: 'answers' is not a list of strings"),
    ({"answers": {"x": 1}}, "q.jsonl:1: 'answers' is not a list of strings"),
    ({"question": 5}, "q.jsonl:1: 'question' is 5, not a string"),
    ({"id": ["1"]}, "q.jsonl:1: 'id' is [\"1\"], not a string"),
    ({"split": 5}, "q.jsonl:1: 'split' is 5, not a string"),
    ({"question": " "}, "q.jsonl:1: the question is empty"),
    ({"question": None}, "q.jsonl:1: the field 'question' is missing"),
    ({"id": None}, "q.jsonl:1: the field 'id' is missing"),
  ],
)
def test_bad_questions_are_told_with_their_line(tmp_path, changes, message):
  path = _write(tmp_path / "q.jsonl", _question(**changes))
  assert message in _error(
    lambda: questions.read_questions(path, require_answers=True)
  )


def test_duplicate_question_and_malformed_json(tmp_path):
  path = _write(tmp_path / "q.jsonl", _question(), _question())
  assert "q.jsonl:2: question id '1' appears twice" in _error(
    lambda: questions.read_questions(path)
  )
  for line, message in (
    ("{", "q.jsonl:1: not valid JSON"),
    ("[1]", "q.jsonl:1: found a JSON list, expected an object"),
  ):
    path = _write(tmp_path / "q.jsonl", line)
    assert message in _error(lambda path=path: questions.read_questions(path))


def test_generated_queries_from_a_folder_of_shards(tmp_path):
  for number, docid in enumerate(("a", "b")):
    with (tmp_path / f"part-0000{number}-of-00002.jsonl").open("w") as file:
      generated_queries.write_generated_queries(
        file, Passage(docid, "t"), {"ru": ["Где?"], "fi": []}
      )
  rows = [g for _, g in generated_queries.read_generated_queries(tmp_path)]
  assert [g.passage_id for g in rows] == ["a", "b"]
  assert rows[0].queries == {"ru": ("Где?",), "fi": ()}


@pytest.mark.parametrize(
  ("row", "message"),
  [
    ('{"docid": "1"}', "g.jsonl:1: the field 'generated_queries' is missing"),
    ('{"docid": "1", "generated_queries": []}', "is not an object of lists"),
    ('{"docid": "1", "generated_queries": {"xx": []}}', "unknown language"),
    ('{"docid": "1", "generated_queries": {"ar": "a"}}', "list of strings"),
    ('{"docid": "1", "generated_queries": {"ar": null}}', "list of strings"),
    ('{"docid": null, "generated_queries": {}}', "'docid' is null, not a str"),
  ],
)
def test_bad_generated_queries(tmp_path, row, message):
  path = _write(tmp_path / "g.jsonl", row)
  assert message in _error(
    lambda: list(generated_queries.read_generated_queries(path))
  )


def test_queries_of_one_language_under_two_codes(tmp_path):
  row = {"docid": "1", "generated_queries": {"ru": ["a"], "rus": ["b", "c"]}}
  path = _write(tmp_path / "g.jsonl", json.dumps(row))
  ((_, found),) = generated_queries.read_generated_queries(path)
  assert found.queries == {"ru": ("a", "b", "c")}


def test_empty_folder_of_generated_queries(tmp_path):
  assert "no .jsonl or .jsonl.gz file in the folder" in _error(
    lambda: list(generated_queries.read_generated_queries(tmp_path))
  )


def test_the_real_question_files(shared_dir):
  folder = shared_dir / "data" / "xor_tydi"
  train = questions.read_questions(folder / "xor_train_retrieve_eng_span.jsonl")
  dev = questions.read_questions(
    folder / "xor_dev_retrieve_eng_span_v1_1.jsonl"
  )
  assert (len(train), len(dev)) == (15_250, 2_110)
  assert sum(q.language == "ar" for q in train) == 2_574
