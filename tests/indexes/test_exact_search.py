"""Exact search against numpy: ties, padding, variants from two products."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.helpers.tiny_store import write_store
from xqg_jax.augmentation.settings import Augmentation
from xqg_jax.augmentation.views import AugmentedView
from xqg_jax.errors import InputError
from xqg_jax.indexes import neighbors
from xqg_jax.indexes.exact import cpu_search, search
from xqg_jax.indexes.exact.all_augmentations import score_variants
from xqg_jax.indexes.exact.search import ExactSettings, search_exact
from xqg_jax.store.shards import ShardArrays
from xqg_jax.store.store import open_store


@pytest.fixture(autouse=True, params=[False, True], ids=["float32", "rounded"])
def _products(request, monkeypatch):
  """On a CPU first without, and then with a scan in bfloat16."""
  monkeypatch.setattr(cpu_search, "has_fast_bfloat16", lambda: request.param)


def _blocks(corpus, size):
  return [(i, corpus[i : i + size]) for i in range(0, len(corpus), size)]


def _brute_force(queries, corpus, k):
  """float64, and a stable sort: ties go to the lower row."""
  scores = queries.astype(np.float64) @ corpus.astype(np.float64).T
  rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
  return np.take_along_axis(scores, rows, axis=1), rows


# Four queries by eight passages; the similarities can be read off.
SIMILARITY = np.array(
  [
    [1, 9, 3, 7, 5, 2, 8, 4],
    [5, 5, 5, 5, 5, 5, 5, 5],
    [-4, -1, -9, -2, -8, -3, -7, -5],
    [0, 6, 6, 0, 6, 0, 7, 7],
  ],
  np.float32,
)
BEST = {
  0: ([9, 8, 7], [1, 6, 3]),
  1: ([5, 5, 5], [0, 1, 2]),
  2: ([-1, -2, -3], [1, 3, 5]),
  3: ([7, 7, 6], [6, 7, 1]),
}


@pytest.mark.parametrize("block_size", [1, 2, 3, 7, 8, 100])
def test_golden_matrix(block_size):
  # Queries are the axes, so that passage j's vector is the j-th column.
  queries = np.eye(4, dtype=np.float32)
  corpus = SIMILARITY.T
  scores, rows = search_exact(queries, _blocks(corpus, block_size), 3)
  assert scores.dtype == np.float32
  assert rows.dtype == np.int32
  for query, (expected_scores, expected_rows) in BEST.items():
    assert scores[query].tolist() == expected_scores
    assert rows[query].tolist() == expected_rows


@pytest.mark.parametrize("k", [8, 9, 50, 10**7])
@pytest.mark.parametrize("block_size", [3, 8])
def test_k_above_the_corpus_gives_every_passage_once(k, block_size):
  queries = np.eye(4, dtype=np.float32)
  scores, rows = search_exact(queries, _blocks(SIMILARITY.T, block_size), k)
  assert rows.shape == scores.shape == (4, 8)
  assert np.sort(rows, axis=1).tolist() == [list(range(8))] * 4
  assert rows[0].tolist() == [1, 6, 3, 4, 7, 2, 5, 0]


def test_padding_never_wins_over_negative_scores():
  corpus = -np.ones((5, 2), np.float32)
  scores, rows = search_exact(
    np.ones((1, 2), np.float32), _blocks(corpus, 4), 5
  )
  assert scores.tolist() == [[-2.0] * 5]
  assert rows.tolist() == [[0, 1, 2, 3, 4]]


def test_many_queries_and_a_large_block_agree_with_brute_force():
  rng = np.random.default_rng(0)
  # Small integers: products are exact, and ties are everywhere.
  corpus = rng.integers(-3, 4, (5000, 8)).astype(np.float32)
  queries = rng.integers(-3, 4, (600, 8)).astype(np.float32)
  for size in (4096, 1000):
    scores, rows = search_exact(queries, _blocks(corpus, size), 20)
    expected_scores, expected_rows = _brute_force(queries, corpus, 20)
    np.testing.assert_array_equal(scores, expected_scores)
    np.testing.assert_array_equal(rows, expected_rows)


def test_real_vectors_agree_with_brute_force_to_1e_5():
  rng = np.random.default_rng(1)
  corpus = rng.standard_normal((3000, 64)).astype(np.float32)
  queries = rng.standard_normal((7, 64)).astype(np.float32)
  scores, rows = search_exact(queries, _blocks(corpus, 2048), 10)
  expected_scores, expected_rows = _brute_force(queries, corpus, 10)
  np.testing.assert_allclose(scores, expected_scores, rtol=1e-5)
  np.testing.assert_array_equal(rows, expected_rows)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_queries_and_passages_are_named(bad):
  corpus = np.ones((6, 2), np.float32)
  queries = np.ones((3, 2), np.float32)
  queries[2, 0] = bad
  with pytest.raises(InputError, match="query 2 holds NaN or infinity"):
    search_exact(queries, _blocks(corpus, 4), 1)
  corpus[5, 1] = bad
  with pytest.raises(InputError, match="passage 5 holds NaN or infinity"):
    search_exact(queries[:2], _blocks(corpus, 4), 1)


def test_scores_that_overflow_are_refused():
  huge = np.full((2, 2), 3e38, np.float32)
  with pytest.raises(InputError, match="score of query 0 is not finite"):
    search_exact(huge, [(0, huge)], 1)


@pytest.mark.parametrize(
  ("queries", "blocks", "k", "message"),
  [
    (np.ones((1, 3), np.float32), [(0, np.ones((2, 2)))], 1, "3 dimensions"),
    (np.ones((0, 2), np.float32), [(0, np.ones((2, 2)))], 1, "no queries"),
    (np.ones((1, 2), np.float32), [(0, np.ones((2, 2)))], 0, "k is 0"),
    (np.ones((1, 2), np.float32), [], 1, "the corpus is empty"),
  ],
)
def test_unusable_input(queries, blocks, k, message):
  with pytest.raises(InputError, match=message):
    search_exact(queries, blocks, k)


def test_blocks_out_of_order_or_growing_are_refused():
  queries, block = np.ones((1, 2), np.float32), np.ones((2, 2), np.float32)
  with pytest.raises(ValueError, match="starts at row 3, expected 2"):
    search_exact(queries, [(0, block), (3, block)], 1)
  with pytest.raises(ValueError, match="block of 2 rows follows one of 1"):
    search_exact(queries, [(0, block[:1]), (1, block)], 1)


# ------------------------------------------------------------ kinds of devices


@pytest.fixture
def accelerator(monkeypatch):
  """Has the fake devices searched as if they were accelerators."""
  monkeypatch.setenv("XQG_CPU_FORMS", "0")


@pytest.mark.parametrize("num_devices", [1, 3, 8])
def test_devices_share_every_block_to_the_bit(accelerator, num_devices):
  rng = np.random.default_rng(0)
  corpus = rng.integers(-3, 4, (5000, 8)).astype(np.float32)
  queries = rng.integers(-3, 4, (600, 8)).astype(np.float32)
  devices = jax.devices()[:num_devices]
  scores, rows = search_exact(
    queries, _blocks(corpus, 4096), 20, devices=devices
  )
  expected = _brute_force(queries, corpus, 20)
  np.testing.assert_array_equal(scores, expected[0])
  np.testing.assert_array_equal(rows, expected[1])
  # Fewer rows than devices, negative scores, and more asked for than there is.
  few = search_exact(
    -np.ones((2, 8), np.float32),
    _blocks(np.ones((5, 8), np.float32), 3),
    9,
    devices=devices,
  )
  assert few[0].tolist() == [[-8.0] * 5] * 2
  assert few[1].tolist() == [[0, 1, 2, 3, 4]] * 2


def test_real_vectors_score_alike_on_one_device_and_on_eight(accelerator):
  rng = np.random.default_rng(1)
  corpus = rng.standard_normal((1000, 64)).astype(np.float32)
  queries = rng.standard_normal((7, 64)).astype(np.float32)
  one, eight = (
    search_exact(queries, _blocks(corpus, 500), 10, devices=devices)
    for devices in (jax.devices()[:1], jax.devices())
  )
  np.testing.assert_array_equal(one[0], eight[0])
  np.testing.assert_array_equal(one[1], eight[1])


def test_non_finite_scores_never_win_on_accelerators(accelerator):
  huge = np.full((2, 2), 3e38, np.float32)
  with pytest.raises(InputError, match="score of query 0 is not finite"):
    search_exact(huge, [(0, huge)], 1)
  huge[1, 0] = np.nan
  with pytest.raises(InputError, match="passage 1 holds NaN"):
    search_exact(np.ones((1, 2), np.float32), [(0, huge)], 1)


def test_a_score_of_nan_on_one_of_several_devices_is_refused(tmp_path):
  # Of the first passage one product is infinite, and the other minus that.
  passages = np.array([[3e38], [1]], np.float32)
  counts = np.ones((2, 1), np.int32)
  arrays = ShardArrays(["a", "b"], passages, -passages[:, None], counts)
  store = open_store(write_store(tmp_path / "store", arrays))
  queries = np.full((1, 1), 3e38, np.float32)
  variants = [Augmentation(reduction="sum", alpha=0.5)]
  for devices in (jax.devices()[:1], jax.devices()[:2]):
    with pytest.raises(InputError, match="score of query 0 is not finite"):
      score_variants(queries, store, variants, 1, devices=devices)


@pytest.mark.parametrize("sign", [1, -1])
def test_nan_beats_every_score_whatever_its_sign(sign):
  nothing = jax.tree.map(lambda x: x[0], search.no_best(1, 1, 1))
  similarity = np.copysign(np.array([[1, np.nan, 2]], np.float32), sign)
  best = search.merge_columns(
    nothing, *map(jax.numpy.asarray, (similarity, 0, 3)), 1
  )
  assert best.scores.tolist() == [[np.inf]]
  assert best.rows.tolist() == [[1]]


def test_recall_target_and_bfloat16_are_settings(accelerator, monkeypatch):
  asked = []

  def approximate(scores, k, *, recall_target):
    asked.append(recall_target)
    return jax.lax.top_k(scores, k)

  monkeypatch.setattr(jax.lax, "approx_max_k", approximate)
  search._update.clear_cache()
  rng = np.random.default_rng(2)
  corpus = rng.standard_normal((300, 16)).astype(np.float32)
  queries = rng.standard_normal((3, 16)).astype(np.float32)
  settings = ExactSettings(dtype="bfloat16", recall_target=0.93)
  found = search_exact(queries, [(0, corpus)], 5, settings=settings)
  rounded = [x.astype(jax.numpy.bfloat16) for x in (queries, corpus)]
  expected = _brute_force(*rounded, 5)
  assert asked == [0.93]
  np.testing.assert_array_equal(found[1], expected[1])
  np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
  with pytest.raises(InputError, match=r"recall_target is 1\.5"):
    ExactSettings(recall_target=1.5)


def test_processes_share_the_blocks(monkeypatch):
  corpus = np.random.default_rng(3).standard_normal((70, 8)).astype("f4")
  queries = np.random.default_rng(4).standard_normal((5, 8)).astype("f4")
  # Each of three processes, one after the other; the third has no block.
  had = []
  monkeypatch.setattr(
    neighbors, "gather_arrays", lambda arrays: had.append(arrays) or had
  )
  for turn in range(3):
    monkeypatch.setattr(search, "take_turn", lambda _, n=turn: (n, 3))
    found = search_exact(
      queries, _blocks(corpus, 40), 30, across_processes=True
    )
  assert (had[2][1] == -1).all()
  expected = _brute_force(queries, corpus, 30)
  np.testing.assert_array_equal(found[1], expected[1])
  np.testing.assert_allclose(found[0], expected[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("order", [1, -1])
def test_rows_that_get_better_and_better_are_all_seen(monkeypatch, order):
  monkeypatch.setattr(cpu_search, "_TILE", 40)
  corpus = np.arange(300, dtype=np.float32)[::order, None]
  scores, rows = search_exact(
    np.array([[1.0], [0.0], [-1.0]], np.float32), _blocks(corpus, 100), 4
  )
  expected = _brute_force(np.array([[1.0], [0.0], [-1.0]]), corpus, 4)
  np.testing.assert_array_equal(scores, expected[0])
  np.testing.assert_array_equal(rows, expected[1])


# ------------------------------------------------------------------- variants

GROUPS = [
  {"language": language, "rank": rank}
  for language in ("ar", "fi")
  for rank in (1, 2)
]


def make_store(folder, *, rows=50, dim=16, groups=GROUPS, seed=0):
  """A store of two shards with random vectors; every fifth has no queries."""
  rng = np.random.default_rng(seed)
  parts = []
  for index, size in enumerate((rows // 2, rows - rows // 2)):
    counts = rng.integers(1, 3, (size, len(groups))).astype(np.int32)
    counts[::5] = 0
    sums = rng.standard_normal((size, len(groups), dim)).astype(np.float32)
    sums[::5] = 0
    arrays = ShardArrays(
      [f"p{index}-{i}" for i in range(size)],
      rng.standard_normal((size, dim)).astype(np.float32),
      sums if groups else None,
      counts if groups else None,
    )
    parts.append(arrays)
  return open_store(write_store(folder, *parts, groups=groups))


VARIANTS = [
  None,
  Augmentation(reduction="sum", alpha=0.01),
  Augmentation(reduction="sum", alpha=0.3),
  Augmentation(reduction="mean", alpha=0.5),
  Augmentation(reduction="mean", alpha=0.2, languages=("fi",)),
  Augmentation(reduction="sum", alpha=0.2, num_queries=1),
  Augmentation(reduction="sum", alpha=1.0, languages=("ar",), num_queries=1),
  Augmentation(reduction="mean", alpha=0.0),
]


@pytest.mark.parametrize("block_size", [50, 16, 1000])
def test_variants_equal_searches_of_materialised_vectors(tmp_path, block_size):
  store = make_store(tmp_path)
  queries = np.random.default_rng(9).standard_normal((9, 16)).astype("f4")
  found = score_variants(queries, store, VARIANTS, 7, block_size=block_size)
  assert len(found) == len(VARIANTS)
  for augmentation, (scores, rows) in zip(VARIANTS, found, strict=True):
    view = AugmentedView(store, augmentation)
    (_, vectors), *_ = view.blocks(1000)
    expected_scores, expected_rows = _brute_force(queries, vectors, 7)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-5)
    np.testing.assert_array_equal(rows, expected_rows)
    again = search_exact(queries, view.blocks(16), 7)
    np.testing.assert_allclose(scores, again[0], atol=1e-5)
    np.testing.assert_array_equal(rows, again[1])


@pytest.mark.parametrize("num_devices", [3, 8])
@pytest.mark.parametrize("k", [7, 100])
def test_devices_share_the_blocks_of_a_sweep(tmp_path, num_devices, k):
  store = make_store(tmp_path)
  queries = np.random.default_rng(9).standard_normal((9, 16)).astype("f4")
  one, found = (
    score_variants(
      queries, store, VARIANTS, k, block_size=16, devices=jax.devices()[:count]
    )
    for count in (1, num_devices)
  )
  for (scores, rows), expected in zip(found, one, strict=True):
    np.testing.assert_array_equal(rows, expected[1])
    np.testing.assert_allclose(scores, expected[0], rtol=1e-6, atol=2e-6)


def test_variants_of_other_weights_and_without_means(tmp_path):
  store = make_store(tmp_path)
  queries = np.random.default_rng(4).normal(size=(5, 16)).astype(np.float32)
  variants = [
    Augmentation(
      reduction=reduction,
      alpha=0.3,
      remove_mean=remove_mean,
      language_weights=weights,
    )
    for reduction in ("sum", "mean")
    for remove_mean in (False, True)
    for weights in ((), ((store.groups[0]["language"], 0.25),))
  ]
  found = score_variants(queries, store, [None, *variants], 7, block_size=11)
  for (scores, rows), variant in zip(found[1:], variants, strict=True):
    view = AugmentedView(store, variant)
    expected = search_exact(queries, view.blocks(16), 7)
    np.testing.assert_allclose(scores, expected[0], atol=1e-4)
    np.testing.assert_array_equal(rows, expected[1])


def test_variants_give_at_most_the_whole_store(tmp_path):
  store = make_store(tmp_path, rows=6)
  queries = np.ones((1, 16), np.float32)
  for scores, rows in score_variants(queries, store, VARIANTS, 100):
    assert scores.shape == (1, 6)
    assert sorted(rows[0].tolist()) == list(range(6))


def test_a_store_without_queries_has_only_the_baseline(tmp_path):
  store = make_store(tmp_path, groups=[])
  queries = np.ones((2, 16), np.float32)
  ((scores, rows),) = score_variants(queries, store, [None], 3)
  expected = search_exact(queries, AugmentedView(store).blocks(50), 3)
  np.testing.assert_array_equal(rows, expected[1])
  np.testing.assert_array_equal(scores, expected[0])
  with pytest.raises(InputError, match="without generated queries"):
    score_variants(queries, store, VARIANTS[:2], 3)


def test_variants_refuse_queries_of_another_dimension(tmp_path):
  store = make_store(tmp_path)
  with pytest.raises(InputError, match="queries have 4 dimensions"):
    score_variants(np.ones((1, 4), np.float32), store, VARIANTS, 3)


def test_golden_variants_by_hand(tmp_path):
  # p = (1, 0), (0, 1); S = (0, 4) from two queries, (4, 0) from four.
  arrays = ShardArrays(
    ["a", "b"],
    np.eye(2, dtype=np.float32),
    np.array([[[0, 4]], [[4, 0]]], np.float32),
    np.array([[2], [4]], np.int32),
  )
  store = open_store(write_store(tmp_path, arrays))
  base = Augmentation(reduction="sum", alpha=0.5)
  variants = [None, base, dataclasses.replace(base, reduction="mean")]
  found = score_variants(np.array([[1, 2]], np.float32), store, variants, 2)
  # q.p = 1, 2; q.S = 8, 4; means 4, 1.
  assert [(s.tolist(), r.tolist()) for s, r in found] == [
    ([[2.0, 1.0]], [[1, 0]]),
    ([[4.5, 3.0]], [[0, 1]]),
    ([[2.5, 1.5]], [[0, 1]]),
  ]
