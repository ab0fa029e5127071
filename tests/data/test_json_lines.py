"""JSON lines that no reader may take, and byte order marks."""

import json

import pytest

from xqg_jax.data.generated_queries import read_generated_queries
from xqg_jax.data.json_lines import read_json_lines
from xqg_jax.data.passages import read_passages
from xqg_jax.data.predictions import read_predictions
from xqg_jax.data.questions import read_questions
from xqg_jax.data.training_pairs import read_training_pairs
from xqg_jax.errors import InputError
from xqg_jax.io.files import read_json

PASSAGE = {"docid": "1", "text": "t", "title": "T"}
QUESTION = {"id": "q", "question": "?", "lang": "fi", "answers": ["a"]}
PAIR = {
  "query_id": "q",
  "query": "?",
  "lang": "fi",
  "answers": ["a"],
  "positive_passages": [PASSAGE],
  "negative_passages": [PASSAGE],
}
QUERIES = {"docid": "1", "generated_queries": {"fi": ["?"]}}
PREDICTION = {"id": "q", "lang": "fi", "ctxs": ["t"]}
READERS = {
  "passages": (read_passages, PASSAGE),
  "questions": (read_questions, QUESTION),
  "pairs": (read_training_pairs, PAIR),
  "queries": (read_generated_queries, QUERIES),
  "predictions": (read_predictions, PREDICTION),
}


def _paths(value, path=()):
  """Where a JSON value holds strings, as keys from its root."""
  if isinstance(value, str):
    yield path
  items = value.items() if isinstance(value, dict) else enumerate(value)
  for key, child in () if isinstance(value, str) else items:
    yield from _paths(child, (*path, key))


def _set(value, path, new):
  copy = json.loads(json.dumps(value))
  target = copy
  for key in path[:-1]:
    target = target[key]
  target[path[-1]] = new
  return copy


def _write(tmp_path, kind, text):
  is_list = kind == "predictions"
  path = tmp_path / ("r.json" if is_list else "r.jsonl")
  path.write_text(f"[{text}]" if is_list else f"{text}\n", encoding="utf-8")
  return path


@pytest.mark.parametrize("kind", READERS)
def test_no_string_holds_half_a_character_or_is_anything_else(tmp_path, kind):
  read, row = READERS[kind]
  assert list(read(_write(tmp_path, kind, json.dumps(row))))
  for where in _paths(row):
    for new in ("a\ud83d", [None], 1.5, {"a": 1}):
      path = _write(tmp_path, kind, json.dumps(_set(row, where, new)))
      with pytest.raises(InputError) as error:
        list(read(path))
      assert str(error.value).startswith(str(path)), (where, new)


@pytest.mark.parametrize("kind", READERS)
def test_numbers_too_long_and_brackets_too_deep(tmp_path, kind):
  read, row = READERS[kind]
  for more in ("9" * 5000, "[" * 100_000):
    text = json.dumps(row)[:-1] + f', "other": {more}}}'
    with pytest.raises(InputError, match=r"not valid JSON|out of range"):
      list(read(_write(tmp_path, kind, text)))


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
  path = tmp_path / "r.jsonl"
  path.write_text('\ufeff{"a": "\ufeffb"}\n', encoding="utf-8")
  assert list(read_json_lines(path)) == [(f"{path}:1", {"a": "\ufeffb"})]
  assert read_json(path) == {"a": "\ufeffb"}


@pytest.mark.parametrize("kind", ["positive_passages", "negative_passages"])
@pytest.mark.parametrize("value", [["t"], {"docid": "1"}, 5, "t", [[PASSAGE]]])
def test_passages_of_a_pair_are_objects(tmp_path, kind, value):
  path = tmp_path / "r.jsonl"
  path.write_text(json.dumps(PAIR | {kind: value}) + "\n")
  with pytest.raises(InputError, match=f"1: '{kind}' is not a list of objects"):
    list(read_training_pairs(path))
