"""Rounded products, their bounds, and that nothing is lost by them."""

import jax.numpy as jnp
import numpy as np
import pytest

from xqg_jax.indexes.exact import cpu_search, rounded_scores
from xqg_jax.indexes.exact.rounded_scores import (
  bound_errors,
  has_fast_bfloat16,
  round_passages,
  round_queries,
  score_pairs,
)
from xqg_jax.indexes.exact.search import search_exact


def _draw(rows, dim, seed, *, unit=True):
  drawn = np.random.default_rng(seed).standard_normal((rows, dim))
  if unit:
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
  return drawn.astype(np.float32)


@pytest.mark.parametrize("scale", [1.0, 1e-6, 3e4])
@pytest.mark.parametrize("dim", [7, 384])
def test_no_rounded_score_is_farther_off_than_its_bound(dim, scale):
  queries, passages = _draw(20, dim, 0), scale * _draw(300, dim, 1)
  left, right = round_queries(queries), round_passages(passages)
  rounded = jnp.matmul(
    left.vectors, right.vectors, preferred_element_type=jnp.float32
  )
  exact = queries.astype(np.float64) @ passages.astype(np.float64).T
  errors = np.abs(np.asarray(rounded) - exact)
  bounds = bound_errors(left, right)
  assert bounds.shape == (20, 1)
  assert (errors <= bounds).all()
  # Unit vectors lose at most 2**-9 of their length each, and both do.
  assert (bounds <= scale * 2.1 * 2**-8).all()
  assert bounds.min() > errors.max() / 4


def test_what_rounding_takes_away_is_measured():
  vectors = np.array([[1 + 2**-8, 0.0], [1.0, 0.0]], np.float32)
  rounded = round_queries(vectors)
  assert np.asarray(rounded.vectors, np.float32).tolist() == [[1, 0], [1, 0]]
  assert np.asarray(rounded.losses).tolist() == [2**-8, 0.0]
  columns = round_passages(vectors)
  assert columns.vectors.shape == (2, 2)
  assert (float(columns.lengths), float(columns.losses)) == (1 + 2**-8, 2**-8)


@pytest.mark.parametrize("k", [3, 25])
@pytest.mark.parametrize("block_size", [480, 130])
def test_scores_that_rounding_cannot_tell_apart(monkeypatch, block_size, k):
  """Passages in heaps, much closer to each other than bfloat16 can say."""
  monkeypatch.setattr(cpu_search, "_TILE", 64)
  monkeypatch.setattr(cpu_search, "has_fast_bfloat16", lambda: True)
  heaps = _draw(12, 48, 2).repeat(40, axis=0)
  corpus = heaps + 1e-4 * _draw(480, 48, 3)
  corpus[7] = corpus[300]  # a tie, to the bit
  queries = _draw(30, 48, 4)
  rounded = queries.astype(jnp.bfloat16) @ corpus.astype(jnp.bfloat16).T
  starts = range(0, 480, block_size)
  blocks = [(start, corpus[start : start + block_size]) for start in starts]
  scores, rows = search_exact(queries, blocks, k)
  pairs = np.indices((30, 480)).reshape(2, -1)
  all_scores = score_pairs(queries, corpus, *pairs).reshape(30, 480)
  expected = np.argsort(-all_scores, axis=1, kind="stable")[:, :k]
  np.testing.assert_array_equal(rows, expected)
  np.testing.assert_array_equal(
    scores, np.take_along_axis(all_scores, expected, axis=1)
  )
  # Without the second look others would have been found.
  naive = np.argsort(-np.asarray(rounded, np.float32), axis=1)[:, :k]
  assert (naive != expected).any(axis=1).mean() > 0.8


def test_a_pairs_score_does_not_depend_on_the_others():
  queries, passages = _draw(40, 384, 5), _draw(90, 384, 6)
  pairs = np.indices((40, 90)).reshape(2, -1)
  together = score_pairs(queries, passages, *pairs)
  one_by_one = [
    score_pairs(queries, passages, *pairs[:, [i]])[0] for i in range(999)
  ]
  assert together[:999].tolist() == one_by_one
  np.testing.assert_allclose(
    together.reshape(40, 90), queries @ passages.T, atol=1e-6
  )


@pytest.mark.parametrize(
  ("text", "has"),
  [
    ("flags\t\t: fpu avx512f avx512_bf16 sse\n", True),
    ("flags\t\t: fpu amx_bf16\n", True),
    ("flags\t\t: fpu avx512f\nbugs\t: avx512_bf16\n", False),
    (None, False),
  ],
)
def test_the_processor_is_asked(tmp_path, monkeypatch, text, has):
  if text is not None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{text}")
  monkeypatch.setattr(rounded_scores, "_CPU_INFO", tmp_path / "cpuinfo")
  has_fast_bfloat16.cache_clear()
  assert has_fast_bfloat16() == has
  has_fast_bfloat16.cache_clear()
