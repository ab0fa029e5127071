"""Candidates scored again with queries by language, worked out by hand."""

import numpy as np
import pytest

from tests.helpers.tiny_store import write_store
from xqg_jax.errors import InputError
from xqg_jax.indexes import rescoring
from xqg_jax.indexes.rescoring import FusionSettings, rescore
from xqg_jax.store.shards import ShardArrays
from xqg_jax.store.store import open_store

GROUPS = [{"language": code, "rank": None} for code in ("fi", "ko")]
# Question (1, 1). Passage a scores 1; two Finnish queries sum to (4, 2), their
# mean scores 3, one Korean scores 5. Passage b scores 2 and has one Finnish
# query that scores 1. Passage c scores 3 and has no queries.
PASSAGES = np.array([[1, 0], [0, 2], [3, 0]], np.float32)
SUMS = np.array([[[4, 2], [5, 0]], [[1, 0], [0, 0]], [[0, 0]] * 2], np.float32)
COUNTS = np.array([[2, 1], [1, 0], [0, 0]], np.int32)
FOUND = np.array([[3, 2, 1, -np.inf]], np.float32), np.array([[2, 1, 0, -1]])


@pytest.fixture
def store(tmp_path):
  write_store(
    tmp_path / "store",
    ShardArrays(["a", "b"], PASSAGES[:2], SUMS[:2], COUNTS[:2]),
    ShardArrays(["c"], PASSAGES[2:], SUMS[2:], COUNTS[2:]),
    groups=GROUPS,
  )
  return open_store(tmp_path / "store")


def run(store, kind, language, alpha=0.5):
  queries = np.ones((1, 2), np.float32)
  scores, rows = rescore(
    FOUND, queries, [language], store, FusionSettings(kind=kind, alpha=alpha)
  )
  return scores[0].tolist(), rows[0].tolist()


@pytest.mark.parametrize(
  ("kind", "language", "scores", "rows"),
  [
    # a (1 + 3) / 2, b (2 + 1) / 2, c by itself.
    ("language", "fi", [3, 2, 1.5], [2, 0, 1]),
    # a (1 + 5) / 2, as much as c: the lower row first; b has no Korean query.
    ("language", "ko", [3, 3, 2], [0, 2, 1]),
    # All three queries of a score 11 / 3 on average.
    ("language", "sw", [3, (1 + 11 / 3) / 2, 1.5], [2, 0, 1]),
    ("language", None, [3, (1 + 11 / 3) / 2, 1.5], [2, 0, 1]),
    ("best", "fi", [3, 3, 1.5], [0, 2, 1]),
  ],
)
def test_scores_by_hand(store, kind, language, scores, rows):
  found = run(store, kind, language)
  assert found[0][:3] == pytest.approx(scores)
  assert found[0][3] == -np.inf
  assert found[1] == [*rows, -1]


def test_the_sum_is_left_alone(store):
  scores, rows = run(store, "sum", "fi")
  assert (scores, rows) == (FOUND[0][0].tolist(), FOUND[1][0].tolist())


def test_alpha_0_gives_the_passages_scores(store):
  scores, rows = run(store, "best", "fi", alpha=0.0)
  assert (scores[:3], rows[:3]) == ([3, 2, 1], [2, 1, 0])


def test_many_questions_in_few_pairs_at_a_time(store, monkeypatch):
  rng = np.random.default_rng(0)
  queries = rng.normal(size=(40, 2)).astype(np.float32)
  rows = np.tile(np.arange(3), (40, 1))
  found = np.zeros((40, 3), np.float32), rows
  languages = [("fi", "ko", None)[i % 3] for i in range(40)]
  settings = FusionSettings(kind="language", alpha=0.3)
  at_once = rescore(found, queries, languages, store, settings)
  monkeypatch.setattr(rescoring, "_NUM_PAIRS", 7)
  monkeypatch.setattr(rescoring, "_BLOCK_SIZE", 2)
  in_parts = rescore(found, queries, languages, store, settings)
  np.testing.assert_array_equal(at_once[0], in_parts[0])
  np.testing.assert_array_equal(at_once[1], in_parts[1])


def test_what_cannot_be_is_refused(tmp_path, store):
  with pytest.raises(InputError, match=r"alpha is 1\.5"):
    FusionSettings(kind="best", alpha=1.5)
  with pytest.raises((InputError, TypeError), match="median"):
    FusionSettings(kind="median")
  write_store(
    tmp_path / "one",
    ShardArrays(["a"], PASSAGES[:1], SUMS[:1, :1], COUNTS[:1, :1]),
  )
  with pytest.raises(InputError, match=r"one sum a language.*GROUP_QUERIES_BY"):
    run(open_store(tmp_path / "one"), "best", "fi")
