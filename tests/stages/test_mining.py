"""The stage `mine-negatives`: which passages are taken, and what it writes."""

import json
import re

import numpy as np
import pytest

from tests.helpers.tiny_dual_encoder import (
  make_encoder,
  make_texts,
  write_checkpoint,
)
from xqg_jax.data.generated_pairs import GeneratedPairs
from xqg_jax.data.passages import Passage
from xqg_jax.data.training_pairs import (
  TrainingPair,
  read_training_pairs,
  write_training_pairs,
)
from xqg_jax.encoding.texts import encode_texts
from xqg_jax.errors import InputError
from xqg_jax.stages.encode import encode
from xqg_jax.stages.index import build_index
from xqg_jax.stages.mine_negatives import _MiningJob, mine_negatives
from xqg_jax.training.negative_rules import NegativeRules

POSITIVE = Passage("p", "The river Oulu is 107 km long.", "Oulu")
PAIR = TrainingPair(
  "q", "Kuinka pitkä?", "fi", (POSITIVE,), answers=("107 km", "yes")
)
FOUND = [
  (Passage("a", "It is 107  KM from here to the sea."), 9.0),
  (Passage("b", "The lake is deep, yes."), 8.0),
  (POSITIVE, 7.0),
  (Passage("c", "The River Oulu is 107 km long."), 6.5),
  (Passage("d", "The lake is cold."), 6.0),
  (Passage("e", "The lake is small."), 3.0),
]


@pytest.mark.parametrize(
  ("rules", "chosen", "left_out"),
  [
    ({}, "bde", {"answer": 1, "positive": 1, "duplicate": 1}),
    ({"num_negatives": 1}, "b", {"answer": 1}),
    (
      {"margin": 1.0},
      "de",
      {"answer": 1, "score": 1, "positive": 1, "duplicate": 1},
    ),
    (
      {"max_score_ratio": 0.5},
      "e",
      {"answer": 1, "score": 2, "positive": 1, "duplicate": 1},
    ),
  ],
)
def test_rules_by_hand(rules, chosen, left_out):
  negatives, missed = NegativeRules(**rules).choose(PAIR, FOUND)
  assert "".join(passage.passage_id for passage in negatives) == chosen
  assert missed == left_out


def test_a_duplicate_stands_in_for_a_positive_that_was_not_found():
  found = [FOUND[1], FOUND[3], FOUND[4]]
  negatives, _ = NegativeRules(margin=0.1).choose(PAIR, found)
  assert [passage.passage_id for passage in negatives] == ["d"]


def test_a_positive_that_was_not_found_leaves_no_room_for_a_margin():
  found = [FOUND[1], FOUND[4]]
  assert len(NegativeRules().choose(PAIR, found)[0]) == 2
  negatives, missed = NegativeRules(margin=0.0).choose(PAIR, found)
  assert (negatives, missed) == ([], {"score": 2})


@pytest.mark.parametrize(
  "rules",
  [{"num_negatives": 0}, {"margin": -1.0}, {"max_score_ratio": 1.5}],
)
def test_rules_out_of_range(rules):
  with pytest.raises(InputError, match=next(iter(rules))):
    NegativeRules(**rules)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  """An exact index of forty passages, and a pair for each of the first ten."""
  root = tmp_path_factory.mktemp("mining")
  texts = make_texts(40, longest=12)
  with (root / "passages.tsv").open("w") as file:
    file.writelines(f"{i}\t{t}\t\n" for i, t in enumerate(texts))
  write_checkpoint(root / "encoder")
  encode(
    checkpoint_path=root / "encoder",
    passages=root / "passages.tsv",
    output_dir=root / "store",
  )
  build_index(
    embeddings=root / "store", output_dir=root / "index", kind="exact"
  )
  pairs = [
    TrainingPair(f"q{i}", texts[i], "fi", (Passage(str(i), texts[i]),))
    for i in range(10)
  ]
  with (root / "pairs.jsonl").open("w") as file:
    write_training_pairs(file, pairs)
  return root


def _mine(world, output_dir, **changes):
  settings = {
    "index": world / "index",
    "checkpoint_path": world / "encoder",
    "passages": world / "passages.tsv",
    "train_pairs": world / "pairs.jsonl",
    "output_dir": output_dir,
    "rules": NegativeRules(num_negatives=3),
    "k": 8,
    "shard_size": 4,
  }
  return mine_negatives(**settings | changes)


def test_negatives_are_the_nearest_of_an_exact_search(world, tmp_path):
  manifest = _mine(world, tmp_path / "out")
  assert manifest["num_pairs"] == 10
  encoder = make_encoder()
  texts = make_texts(40, longest=12)
  passages = _embed(encoder, texts, "passage")
  for number, pair in enumerate(
    read_training_pairs(tmp_path / "out" / "train_pairs.jsonl")
  ):
    (query,) = _embed(encoder, [pair.query], "query")
    order = np.argsort(-(passages @ query), kind="stable")[:8]
    words = set(texts[number].split())
    others = [
      str(row)
      for row in order.tolist()
      if len(words & set(texts[row].split()))
      < 0.9 * len(words | set(texts[row].split()))
    ]
    assert [p.passage_id for p in pair.negatives] == others[:3]


def _embed(encoder, texts, side):
  prefix = {"query": "q: ", "passage": "p: "}[side]
  return encode_texts(
    encoder, [prefix + text for text in texts], side=side, max_length=24
  )


def test_an_interrupted_run_ends_with_the_same_bytes(
  world, tmp_path, monkeypatch
):
  _mine(world, tmp_path / "whole")
  make, made = _MiningJob.make, []

  def stop(job, pairs, bar):
    if len(made) == 2:
      raise KeyboardInterrupt
    made.append(make(job, pairs, bar))
    return made[-1]

  with monkeypatch.context() as patch:
    patch.setattr(_MiningJob, "make", stop)
    with pytest.raises(KeyboardInterrupt):
      _mine(world, tmp_path / "broken")
  # A shard that was damaged is made again, too.
  (tmp_path / "broken" / ".shards" / "00001.jsonl").write_text("{}\n")
  _mine(world, tmp_path / "broken")
  for name in ("train_pairs.jsonl", "manifest.json"):
    whole, broken = (tmp_path / run / name for run in ("whole", "broken"))
    assert whole.read_bytes() == broken.read_bytes()
  assert not (tmp_path / "broken" / ".shards").exists()


def test_a_damaged_result_is_told_of_and_made_again(world, tmp_path, capsys):
  _mine(world, tmp_path / "out")
  path = tmp_path / "out" / "train_pairs.jsonl"
  expected = path.read_bytes()
  path.write_bytes(expected.replace(b"a", b"e", 1))
  capsys.readouterr()
  _mine(world, tmp_path / "out")
  told = "making it again: .*train_pairs.jsonl: differs from its checksum"
  assert re.search(told, capsys.readouterr().err)
  assert path.read_bytes() == expected


def test_generated_queries_are_mined_alike(world, tmp_path):
  texts = make_texts(40, longest=12)
  queries = tmp_path / "queries.jsonl"
  with queries.open("w") as file:
    for row in range(10):
      generated = {"fi": [texts[row]]}
      line = {"docid": str(row), "generated_queries": generated}
      file.write(json.dumps(line) + "\n")
  pairs = GeneratedPairs(
    passages=world / "passages.tsv", generated_queries=queries
  )
  _mine(world, tmp_path / "a")
  _mine(world, tmp_path / "b", train_pairs=None, generated_pairs=pairs)
  mined = [
    [
      (pair.query, pair.negatives)
      for pair in read_training_pairs(tmp_path / run / "train_pairs.jsonl")
    ]
    for run in "ab"
  ]
  assert mined[0] == mined[1]


def test_no_pairs_leave_no_result(world, tmp_path):
  queries = tmp_path / "queries.jsonl"
  row = {"docid": "0", "generated_queries": {"fi": ["Missä?"]}}
  queries.write_text(json.dumps(row) + "\n")
  pairs = GeneratedPairs(
    passages=world / "passages.tsv",
    generated_queries=queries,
    languages=("ja",),
  )
  for _ in range(2):
    with pytest.raises(InputError, match="no pairs to mine"):
      _mine(world, tmp_path / "out", train_pairs=None, generated_pairs=pairs)


def test_pairs_of_one_kind_are_needed(world, tmp_path):
  with pytest.raises(InputError, match="either training pairs or generated"):
    _mine(world, tmp_path / "out", train_pairs=None)
  assert not (tmp_path / "out").exists()
