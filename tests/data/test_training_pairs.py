"""Training pairs: their file, and what of them reaches the dual encoder."""

import dataclasses
import json

import numpy as np
import pytest
import seqio

import xqg_jax.tasks as tasks
from tests.helpers.tiny_collection import make_pairs, make_tokenizer
from tests.helpers.tiny_tasks import DUAL_LENGTHS, ENCODER
from xqg_jax.data.passages import Passage
from xqg_jax.data.training_pairs import (
  TrainingPair,
  read_training_pairs,
  write_training_pairs,
)
from xqg_jax.errors import InputError
from xqg_jax.seqio_data.feature_converter import DualEncoderFeatureConverter

LENGTHS = DUAL_LENGTHS | {
  "passage_ids": (3, 2),
  "answer_ids": (4, 2),
  "teacher_scores": 3,
}
FURTHER = ("passage_ids", "answer_ids", "teacher_scores")


def _write(path, *pairs):
  with path.open("w", encoding="utf-8") as file:
    write_training_pairs(file, pairs)
  return path


def test_round_trip(tmp_path):
  pair = TrainingPair(
    "q1", "Где?", "ru", (Passage("1", "a", "t"),), (Passage("2", "b"),), ("a",)
  )
  scored = dataclasses.replace(
    pair, positive_scores=(2.5,), negative_scores=(-1.0,)
  )
  path = _write(tmp_path / "t.jsonl", pair, scored)
  assert list(read_training_pairs(path)) == [pair, scored]
  assert "teacher_score" not in path.read_text().splitlines()[0]


@pytest.mark.parametrize(
  ("positives", "negatives", "message"),
  [
    ([], [], "t.jsonl:1: the row has no positive passage"),
    (
      [{"docid": "1", "text": "a", "teacher_score": 1}],
      [{"docid": "2", "text": "b"}],
      "t.jsonl:1: a passage's teacher_score is None",
    ),
    (
      [{"docid": "1", "text": "a", "teacher_score": float("nan")}],
      [],
      "t.jsonl:1: a passage's teacher_score is nan",
    ),
  ],
)
def test_bad_pairs_are_told_with_their_line(
  tmp_path, positives, negatives, message
):
  row = {"query_id": "1", "query": "x"}
  row |= {"positive_passages": positives, "negative_passages": negatives}
  path = tmp_path / "t.jsonl"
  path.write_text(json.dumps(row))
  with pytest.raises(InputError, match=message):
    list(read_training_pairs(path))


@pytest.fixture
def examples(tmp_path):
  """Pairs with answers and scores, and their features, row by row."""
  answers = [("Ob", " Lena"), ("yes",), ("LENA",)]
  pairs = [
    dataclasses.replace(
      pair,
      answers=answers[number % 3],
      positive_scores=(float(number),),
      negative_scores=tuple(0.1 * i for i in range(len(pair.negatives))),
    )
    for number, pair in enumerate(make_pairs()[:6])
  ]
  _write(tmp_path / "train_pairs.jsonl", *pairs)
  tasks.register_local_tasks(
    name="scored",
    data_dir=tmp_path,
    encoder_tokenizer=make_tokenizer("bert"),
    encoder_config=ENCODER,
  )
  dataset = seqio.get_mixture_or_task("scored_dual_encoder").get_dataset(
    LENGTHS, shuffle=False, seed=1, num_epochs=1
  )
  convert = DualEncoderFeatureConverter(0, FURTHER)
  return pairs, list(convert(dataset, LENGTHS).as_numpy_iterator())


def test_ids_and_scores_belong_to_the_drawn_passages(examples):
  pairs, rows = examples
  tokenizer = make_tokenizer("bert")
  ids = {}  # passage id -> its two numbers
  for pair, row in zip(pairs, rows, strict=True):
    assert row["teacher_scores"][0] == pair.positive_scores[0]
    texts = [f"passage: {p.title} {p.text}" for p in pair.negatives]
    tokens = tokenizer.encode_batch(texts, max_length=24)
    drawn = [row[row > 0].tolist() for row in row["negative_passage_tokens"]]
    for place, text in enumerate(drawn, start=1):
      if not text:
        assert row["passage_ids"][place].tolist() == [0, 0]
        assert row["teacher_scores"][place] == 0
        continue
      number = [t.tolist() for t in tokens].index(text)
      expected = np.float32(pair.negative_scores[number])
      assert row["teacher_scores"][place] == expected
      passage_id = pair.negatives[number].passage_id
      ids[passage_id] = tuple(row["passage_ids"][place].tolist())
    positive = pair.positives[0].passage_id
    ids[positive] = tuple(row["passage_ids"][0].tolist())
  assert len(ids) > 10
  assert len(set(ids.values())) == len(ids)


def test_answers_are_alike_whatever_their_case(examples):
  _, rows = examples
  first, second, third = (row["answer_ids"].tolist() for row in rows[:3])
  assert second == [[0, 0]] * 4  # yes is no answer
  assert first[1] == third[0] != [0, 0]
  assert first[0] not in third
  assert first[2:] == [[0, 0]] * 2
