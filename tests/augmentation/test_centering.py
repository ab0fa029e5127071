"""Means of languages, and questions without them."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xqg_jax.augmentation.centering import (
  Centering,
)
from xqg_jax.augmentation.language_means import (
  MEANS_FILE,
  LanguageMeans,
  make_means,
  measure_means,
  merge_means,
  read_means,
)
from xqg_jax.errors import InputError

# Three questions in Finnish, one in Korean, worked out by hand: the means are
# (2, 1) and (0, 9), over all (1.5, 3).
VECTORS = np.array([[1, 0], [2, 3], [3, 0], [0, 9]], np.float32)
LANGUAGES = ("fi", "fi", "fi", "ko")


@pytest.fixture
def means() -> LanguageMeans:
  return measure_means(VECTORS, LANGUAGES, encoder_fingerprint="abc")


def test_means_of_a_hand_checked_example(means: LanguageMeans):
  assert means.languages == ("fi", "ko")
  assert means.means.tolist() == [[2, 1], [0, 9]]
  assert means.counts.tolist() == [3, 1]
  assert means.overall.tolist() == [1.5, 3]


def test_the_means_are_float64():
  # Added up in float32 the ones would be lost.
  vectors = np.array([[2**24], [1], [1]], np.float32)
  found = measure_means(vectors, ["fi"] * 3)
  assert found.means.dtype == np.float64
  assert found.means[0, 0] * 3 == 2**24 + 2


@pytest.mark.parametrize(
  ("strength", "by", "expected"),
  [
    (1.0, "language", [[-1, -1], [0, 2], [1, -1], [0, 0]]),
    (0.5, "language", [[0, -0.5], [1, 2.5], [2, -0.5], [0, 4.5]]),
    (1.0, "all", [[-0.5, -3], [0.5, 0], [1.5, -3], [-1.5, 6]]),
    (2.0, "all", [[-2, -6], [-1, -3], [0, -6], [-3, 3]]),
    (0.0, "language", VECTORS.tolist()),
  ],
)
def test_apply_subtracts(means, strength, by, expected):
  found = means.apply(VECTORS, LANGUAGES, strength=strength, by=by)
  assert found.dtype == np.float32
  assert found.tolist() == expected


def test_without_languages_the_mean_over_all_is_subtracted(means):
  by_all = means.apply(VECTORS, LANGUAGES, by="all")
  assert means.apply(VECTORS).tolist() == by_all.tolist()


def test_a_language_without_a_mean_falls_back_and_is_told(means):
  with pytest.warns(UserWarning, match="of their language: sw 1, te 2"):
    found = means.apply(VECTORS, ["fi", "sw", "te", "te"])
  assert found.tolist() == [[-1, -1], [0.5, 0], [1.5, -3], [-1.5, 6]]


def test_strength_0_hands_back_the_very_array(means):
  assert Centering(means).apply(VECTORS, LANGUAGES) is VECTORS
  assert Centering().apply(VECTORS, LANGUAGES) is VECTORS
  assert Centering(means).to_json() is None


def test_missing_languages_count_only_where_they_matter(means):
  asked = ["fi", "sw", None]
  counted = {"sw": 1, "unknown": 1}
  assert Centering(means, 0.8).count_missing(asked) == counted
  assert Centering(means, 0.8, "all").count_missing(asked) == {}
  assert Centering(means, 0.0).count_missing(asked) == {}


# -------------------------------------------------------------------- bad input


@pytest.mark.parametrize("strength", [-0.1, 2.1, np.nan, np.inf])
def test_a_strength_outside_0_to_2_is_refused(means, strength):
  with pytest.raises(InputError, match=r"strength of centring is .*choose 0"):
    means.apply(VECTORS, LANGUAGES, strength=strength)


def test_settings_that_cannot_be_are_refused(means):
  # ValueError, and so InputError, unless types are checked.
  with pytest.raises((InputError, TypeError), match="language"):
    Centering(means, 0.5, "script")
  with pytest.raises(InputError, match=r"no means .*set CENTER_MEANS"):
    Centering(None, 0.5)


def test_vectors_that_do_not_fit_are_refused(means):
  with pytest.raises(InputError, match="3 dimensions, the means have 2"):
    means.apply(np.ones((1, 3), np.float32), ["fi"])
  with pytest.raises(InputError, match=r"vectors of shape \(2,\)"):
    means.apply([1.0, 2.0])
  with pytest.raises(InputError, match="2 languages for 4 vectors"):
    means.apply(VECTORS, ["fi", "ko"])
  spoiled = VECTORS.copy()
  spoiled[2, 1] = np.nan
  with pytest.raises(InputError, match="question 2 holds NaN"):
    means.apply(spoiled, LANGUAGES)
  with pytest.raises(InputError, match="question 2 holds NaN"):
    measure_means(spoiled, LANGUAGES)


def test_nothing_has_no_mean():
  with pytest.raises(InputError, match="no questions to take means of"):
    merge_means([])
  with pytest.raises(InputError, match="no questions to take means of"):
    make_means({"fi": np.zeros(2)}, {"fi": 0}, None)


# --------------------------------------------------------------------- the file


def test_means_come_back_bit_for_bit(means, tmp_path):
  means = measure_means(VECTORS / 3, LANGUAGES, encoder_fingerprint="abc")
  means.write(tmp_path)
  found = read_means(tmp_path)
  assert found.means.tobytes() == means.means.tobytes()
  assert found.fingerprint == means.fingerprint
  assert found.languages == means.languages
  assert found.encoder_fingerprint == "abc"
  assert json.loads((tmp_path / MEANS_FILE).read_text())["counts"] == [3, 1]


@pytest.mark.parametrize(
  ("field", "value"),
  [
    ("means", [[2.0, 1.0], [0.0, 9.5]]),
    ("languages", ["fi", "ja"]),
    ("counts", [3, 2]),
    ("encoder_fingerprint", "abd"),
    ("checksum", "0" * 64),
  ],
)
def test_a_changed_file_is_refused(means, tmp_path, field, value):
  means.write(tmp_path)
  path = tmp_path / MEANS_FILE
  path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
  with pytest.raises(InputError, match="differs from its checksum"):
    read_means(tmp_path)


def test_other_files_are_refused(tmp_path):
  with pytest.raises(InputError, match="no such file; make means"):
    read_means(tmp_path)
  (tmp_path / MEANS_FILE).write_text("[]")
  with pytest.raises(InputError, match="expected an object, found a list"):
    read_means(tmp_path)
  (tmp_path / MEANS_FILE).write_text('{"format_version": 2}')
  with pytest.raises(InputError, match="not means of format version 1"):
    read_means(tmp_path)


# ------------------------------------------------------------------- properties

_VECTORS = st.lists(
  st.tuples(
    st.sampled_from(["ar", "fi", "te"]),
    st.lists(st.integers(-1000, 1000), min_size=3, max_size=3),
  ),
  min_size=1,
  max_size=40,
)


@settings(max_examples=50, deadline=None)
@given(_VECTORS, st.integers(1, 10))
def test_parts_merge_to_the_means_of_all(texts, size):
  languages, vectors = zip(*texts, strict=True)
  vectors = np.array(vectors, np.float32)
  at_once = measure_means(vectors, languages, encoder_fingerprint="abc")
  starts = range(0, len(texts), size)
  parts = [
    measure_means(
      vectors[i : i + size],
      languages[i : i + size],
      encoder_fingerprint="abc",
    )
    for i in starts
  ]
  merged = merge_means(parts)
  assert merged.languages == at_once.languages
  assert merged.counts.tolist() == at_once.counts.tolist()
  assert merged.encoder_fingerprint == "abc"
  np.testing.assert_allclose(merged.means, at_once.means, rtol=0, atol=1e-10)


@settings(max_examples=50, deadline=None)
@given(_VECTORS)
def test_centred_questions_of_a_language_have_mean_0(texts):
  languages, vectors = zip(*texts, strict=True)
  vectors = np.array(vectors, np.float32)
  centred = measure_means(vectors, languages).apply(vectors, languages)
  again = measure_means(centred, languages)
  np.testing.assert_allclose(again.means, 0, atol=1e-4)


@settings(max_examples=50, deadline=None)
@given(_VECTORS, st.floats(0, 2))
def test_scores_fall_by_the_score_of_the_mean(texts, strength):
  languages, vectors = zip(*texts, strict=True)
  vectors = np.array(vectors, np.float32)
  means = measure_means(vectors, languages)
  passages = np.array([[1, 2, -1], [0, 1, 1]], np.float64)
  centred = means.apply(vectors, languages, strength=strength)
  expected = (vectors - strength * means.select(languages)) @ passages.T
  np.testing.assert_allclose(centred @ passages.T, expected, atol=2e-3)
