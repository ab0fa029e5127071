"""The study on centred questions: its parts by hand, and its tables."""

import numpy as np
import pytest

from tests.helpers.shipped_scripts import ROOT, load_script
from xqg_jax.augmentation.language_means import measure_means
from xqg_jax.data.questions import Question
from xqg_jax.io.files import read_json


@pytest.fixture
def load(monkeypatch):
  """Loads a script with those that it imports."""
  monkeypatch.syspath_prepend(str(ROOT / "scripts"))
  return load_script


def test_the_tables_are_the_scripts_own(load):
  script = load("write_centering")
  tables = script.make_tables(read_json(script.DATA))
  for page in script.PAGES:
    text = page.read_text(encoding="utf-8")
    assert "<!-- centering-" in text
    assert script.fill(text, tables) == text


def test_reciprocal_ranks_by_hand(load):
  ranks = load("centering_vectors").reciprocal_ranks
  scores = np.array([[0.1, 0.9, 0.5, 0.5], [0.3, 0.3, 0.1, 0.0]])
  # Row 2 is second; of rows 0 and 1 the lower comes first; row 3 is fourth.
  relevant = np.array([[2, -1], [0, 3]])
  assert ranks(scores, relevant).tolist() == [0.5, 1.0]
  assert ranks(scores, np.array([[3, -1], [1, -1]])).tolist() == [1 / 3, 0.5]
  assert ranks(scores, np.array([[0], [3]]), depth=3).tolist() == [0, 0]


def test_average_precision_by_hand(load):
  precision = load("centering_pool").average_precision
  # Two paragraphs in two languages: rows 0 and 2 are translations.
  scores = np.array([[0.9, 0.1, 0.5, 0.8]])
  assert precision(scores, [0], 2).tolist() == [(1 / 1 + 2 / 3) / 2]
  assert precision(scores, [1], 2).tolist() == [(1 / 2 + 2 / 4) / 2]


def test_baselines_by_hand(load):
  baselines = load("centering_baselines")
  finnish, korean = [[2.0, 0.0], [4.0, 0.0]], [[0.0, 3.0]]
  bank = {"fi": np.array(finnish), "ko": np.array(korean)}
  vectors = np.array([[5.0, 1.0], [5.0, 1.0]])
  # The first component of Finnish is the first axis, of Korean the second.
  found = baselines.remove_language_components(
    vectors, ["fi", "ko"], bank, rank=1
  )
  np.testing.assert_allclose(found, [[0, 1], [5, 0]], atol=1e-12)
  shifts = baselines.measure_shifts(
    {"en": np.array([[1.0, 1.0], [3.0, 1.0]]), "fi": np.array([[2, 1], [5, 3]])}
  )
  assert shifts["fi"].tolist() == [1.5, 1.0]
  questions, passages = baselines.remove_mean_of_all(
    np.array([[1.0, 4.0]]),
    np.array([[4.0, 1.0]]),
    np.array([[1.0, 0.0], [1.0, 2.0]]),  # the mean is (1, 1)
    project=False,
  )
  assert (questions.tolist(), passages.tolist()) == ([[0, 1]], [[1, 0]])


def test_fusion_of_single_queries_by_hand(load):
  collections = load("centering_collections")
  vectors, study = load("centering_vectors"), load("centering_study")
  queries = [
    collections.Query("a", "fi", 0),
    collections.Query("b", "ko", 0),
    collections.Query("c", "fi", 2),
  ]
  collection = collections.Collection(
    "tiny",
    [None] * 3,
    [Question("q1", "?", "fi"), Question("q2", "?", "ko")],
    {"q1": frozenset([0]), "q2": frozenset([2])},
    queries,
  )
  data = vectors.Embedded(
    collection,
    passages=np.eye(3, dtype=np.float32),
    questions=np.array([[1, 0, 0], [0, 2, 0]], np.float32),
    queries=np.array([[4, 0, 0], [0, 6, 0], [8, 8, 0]], np.float32),
  )
  found = study.Study(data)
  # Passage 0 has two queries, passage 1 none, and so its own vector.
  assert found.fused.tolist() == [[2, 3, 0], [0, 1, 0], [8, 8, 0]]
  assert found.fuse_best(data.questions).tolist() == [[4, 0, 8], [12, 2, 16]]
  by_language = found.fuse_language(data.questions)
  assert by_language.tolist() == [[4, 0, 8], [12, 2, 0]]
  expected = measure_means(data.queries, ["fi", "ko", "fi"])
  assert data.means.fingerprint == expected.fingerprint
  centred = found.center(data.means, 0.5)
  assert centred.tolist() == [[-2, -2, 0], [0, -1, 0]]
