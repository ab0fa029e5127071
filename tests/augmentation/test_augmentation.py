"""Augmentation against a reference written out in numpy, sum by sum."""

import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import tiny_store
from xqg_jax.augmentation import fusion
from xqg_jax.augmentation.settings import Augmentation
from xqg_jax.augmentation.views import AugmentedView, open_view
from xqg_jax.errors import InputError
from xqg_jax.stages import augment
from xqg_jax.store import store
from xqg_jax.store.shards import ShardArrays

DIM = 5
LANGUAGES = ("ar", "fi", "ru")


def reference(passage, queries, reduction, alpha):
  """One passage, its queries one by one, in float64."""
  total = np.zeros(len(passage))
  for query in queries:
    total = total + query
  if reduction == "sum":
    return (1 - alpha) * passage + alpha * total
  if not queries:
    return passage
  return (1 - alpha) * passage + alpha * total / len(queries)


def make_queries(num_passages, *, most=3, seed=0, fewest=0):
  """passage -> (language, rank) -> vector."""
  rng = np.random.default_rng(seed)
  return [
    {
      (language, rank): rng.normal(size=DIM)
      for language in LANGUAGES
      for rank in range(1, rng.integers(fewest, most + 1) + 1)
    }
    for _ in range(num_passages)
  ]


def write_store(folder, passages, queries, group_by=("language", "rank")):
  groups = {
    (): [(None, None)],
    ("language",): [(code, None) for code in LANGUAGES],
    ("language", "rank"): [(c, r) for c in LANGUAGES for r in (1, 2, 3)],
  }[group_by]
  sums = np.zeros((len(passages), len(groups), DIM), np.float32)
  counts = np.zeros((len(passages), len(groups)), np.int32)
  for row, by_key in enumerate(queries):
    for (language, rank), vector in by_key.items():
      key = (
        language if "language" in group_by else None,
        rank if "rank" in group_by else None,
      )
      sums[row, groups.index(key)] += vector
      counts[row, groups.index(key)] += 1
  ids = [f"p{j}" for j in range(len(passages))]
  half = len(passages) // 2
  parts = [
    ShardArrays(ids[part], passages[part], sums[part], counts[part])
    for part in (slice(0, half), slice(half, None))
  ]
  named = [{"language": code, "rank": rank} for code, rank in groups]
  return tiny_store.write_store(folder, *parts, groups=named)


@pytest.fixture
def passages():
  rng = np.random.default_rng(7)
  return rng.normal(size=(9, DIM)).astype(np.float32)


def read_view(view, block_size=4):
  starts, blocks = zip(*view.blocks(block_size), strict=True)
  assert list(starts) == list(range(0, view.num_passages, block_size))
  return np.concatenate(blocks)


@settings(deadline=None, max_examples=40)
@given(
  st.sampled_from(["sum", "mean"]),
  st.floats(0, 1),
  st.integers(0, 2**16),
)
def test_arithmetic_against_reference(reduction, alpha, seed):
  queries = [list(q.values()) for q in make_queries(6, seed=seed)]
  rng = np.random.default_rng(seed)
  passages = rng.normal(size=(6, DIM))
  got = fusion.augment_embeddings(
    passages,
    np.stack([np.sum(q, axis=0) if q else np.zeros(DIM) for q in queries]),
    np.array([len(q) for q in queries]),
    reduction=reduction,
    alpha=alpha,
  )
  expected = [
    reference(p, q, reduction, alpha)
    for p, q in zip(passages, queries, strict=True)
  ]
  np.testing.assert_allclose(got, expected, atol=1e-5)


def test_passage_without_queries():
  arrays = np.ones((1, DIM)), np.zeros((1, DIM)), np.array([0])
  for reduction, expected in (("sum", 0.75), ("mean", 1.0)):
    got = fusion.augment_embeddings(*arrays, reduction=reduction, alpha=0.25)
    np.testing.assert_allclose(got, expected)


def test_alpha_of_the_paper_is_a_mean_weight():
  # 35 queries: 0.99 p + 0.01 S has the direction of (1 - w) p + w S / 35
  # with w = 0.35 / 1.34.
  rng = np.random.default_rng(0)
  p, total = rng.normal(size=(1, DIM)), rng.normal(size=(1, DIM))
  count = np.array([35])
  as_sum = fusion.augment_embeddings(
    p, total, count, reduction="sum", alpha=0.01
  )
  as_mean = fusion.augment_embeddings(
    p, total, count, reduction="mean", alpha=0.35 / 1.34
  )
  np.testing.assert_allclose(as_sum, 1.34 * as_mean, rtol=1e-5)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("languages", [None, ("ar",), ("fi", "ru")])
@pytest.mark.parametrize("num_queries", [None, 1, 2])
@pytest.mark.filterwarnings("ignore:passages have")
def test_view_of_languages_and_ranks(
  tmp_path, passages, reduction, languages, num_queries
):
  queries = make_queries(len(passages))
  view = augment.augment(
    store=write_store(tmp_path / "store", passages, queries),
    output_dir=tmp_path / "view",
    reduction=reduction,
    alpha=0.2,
    languages=languages,
    num_queries=num_queries,
  )
  expected = [
    reference(
      p,
      [
        vector
        for (language, rank), vector in by_key.items()
        if (languages is None or language in languages)
        and (num_queries is None or rank <= num_queries)
      ],
      reduction,
      0.2,
    )
    for p, by_key in zip(passages, queries, strict=True)
  ]
  for opened in (view, open_view(tmp_path / "view")):
    np.testing.assert_allclose(read_view(opened), expected, atol=1e-5)
  assert view.passage_ids == [f"p{i}" for i in range(9)]


def test_store_is_a_view_without_augmentation(tmp_path, passages):
  folder = write_store(tmp_path / "store", passages, make_queries(9))
  view = open_view(folder)
  assert view.augmentation is None
  assert view.fingerprint == store.open_store(folder).fingerprint
  assert (view.dim, view.num_passages) == (DIM, 9)
  np.testing.assert_array_equal(read_view(view), passages)


def test_view_copies_no_vectors_and_moves_with_its_store(tmp_path, passages):
  folder = write_store(tmp_path / "run" / "store", passages, make_queries(9))
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    view = augment.augment(
      store=folder, output_dir=tmp_path / "run" / "view", reduction="mean"
    )
  size = sum(p.stat().st_size for p in (tmp_path / "run/view").iterdir())
  assert size < 2000
  (tmp_path / "run").rename(tmp_path / "elsewhere")
  moved = open_view(tmp_path / "elsewhere" / "view")
  assert moved.fingerprint == view.fingerprint
  assert moved.augmentation == Augmentation(reduction="mean", alpha=0.01)


def test_fingerprints_differ_by_setting(tmp_path, passages):
  folder = write_store(tmp_path / "store", passages, make_queries(9))
  opened = store.open_store(folder)
  settings_ = [
    None,
    Augmentation(reduction="sum", alpha=0.01),
    Augmentation(reduction="mean", alpha=0.01),
    Augmentation(reduction="sum", alpha=0.02),
    Augmentation(reduction="sum", alpha=0.01, languages=("ar",)),
    Augmentation(reduction="sum", alpha=0.01, num_queries=1),
    Augmentation(reduction="sum", alpha=0.01, remove_mean=True),
    Augmentation(reduction="sum", alpha=0.01, language_weights=(("ar", 2.0),)),
  ]
  views = [AugmentedView(opened, s) for s in settings_]
  assert len({view.fingerprint for view in views}) == len(views)


def test_warns_of_uneven_counts(tmp_path, passages):
  queries = make_queries(9)
  totals = [len(q) for q in queries]
  folder = write_store(tmp_path / "store", passages, queries, ())
  message = f'have {min(totals)} to {max(totals)} queries; .*reduction="mean"'
  with pytest.warns(UserWarning, match=message):
    augment.augment(store=folder, output_dir=tmp_path / "view")


def test_even_counts_do_not_warn(tmp_path, passages):
  queries = make_queries(9, fewest=3)
  folder = write_store(tmp_path / "store", passages, queries)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    augment.augment(store=folder, output_dir=tmp_path / "view")


# --------------------------------------------- weights, means, written vectors


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.filterwarnings("ignore:passages have")
def test_weights_of_languages(tmp_path, passages, reduction):
  queries = make_queries(len(passages))
  view = augment.augment(
    store=write_store(tmp_path / "store", passages, queries),
    output_dir=tmp_path / "view",
    reduction=reduction,
    alpha=0.2,
    language_weights={"fi": 0.5, "ru": 0.0},
  )
  weights = {"ar": 1.0, "fi": 0.5, "ru": 0.0}
  expected = []
  for p, by_key in zip(passages, queries, strict=True):
    pairs = [(weights[code], vector) for (code, _), vector in by_key.items()]
    total = sum((w * v for w, v in pairs), np.zeros(DIM))
    count = sum(w for w, _ in pairs)
    if reduction == "mean":
      expected.append(0.8 * p + 0.2 * total / count if count else p)
    else:
      expected.append(0.8 * p + 0.2 * total)
  for opened in (view, open_view(tmp_path / "view")):
    np.testing.assert_allclose(read_view(opened), expected, atol=1e-5)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_common_means_are_removed(tmp_path, passages, reduction):
  queries = make_queries(len(passages))
  with warnings.catch_warnings():
    warnings.simplefilter("error")  # uneven counts do no harm now
    view = augment.augment(
      store=write_store(tmp_path / "store", passages, queries),
      output_dir=tmp_path / "view",
      reduction=reduction,
      alpha=0.2,
      remove_mean=True,
    )
  mean_passage = passages.mean(axis=0)
  mean_query = np.mean([v for q in queries for v in q.values()], axis=0)
  expected = [
    reference(
      p - mean_passage, [v - mean_query for v in q.values()], reduction, 0.2
    )
    for p, q in zip(passages, queries, strict=True)
  ]
  np.testing.assert_allclose(read_view(view), expected, atol=1e-5)
  again = open_view(tmp_path / "view")
  assert again.known_means is not None
  np.testing.assert_array_equal(read_view(again), read_view(view))


def test_materialized_vectors_are_a_store_of_their_own(tmp_path, passages):
  folder = write_store(tmp_path / "store", passages, make_queries(9))
  arguments = {"store": folder, "reduction": "mean", "alpha": 0.2}
  view = augment.augment(**arguments, output_dir=tmp_path / "view")
  arguments |= {"output_dir": tmp_path / "plain", "materialize": True}
  augment.augment(**arguments)
  plain = open_view(tmp_path / "plain")
  assert plain.augmentation is None
  assert plain.store.groups == []
  assert plain.passage_ids == view.passage_ids
  assert plain.store.encoder_fingerprint == view.store.encoder_fingerprint
  np.testing.assert_array_equal(read_view(plain), read_view(view))
  # A damaged shard is written again.
  chunk = tmp_path / "plain" / "shard-00001" / "passages" / "c" / "0" / "0"
  before = chunk.read_bytes()
  chunk.write_bytes(before[:-1])
  augment.augment(**arguments)
  assert chunk.read_bytes() == before


# --------------------------------------------------------------------- errors


@pytest.mark.parametrize(
  ("group_by", "settings_", "message"),
  [
    ((), {"languages": ["ar"]}, r"group_queries_by=\('language',\)"),
    ((), {"num_queries": 1}, r"group_queries_by=\('rank',\)"),
    (
      ("language",),
      {"num_queries": 1},
      r"num_queries cannot be chosen.*group_queries_by=\('language', 'rank'\)",
    ),
    (("language",), {"languages": ["te"]}, "'te'; the embeddings have ar, fi"),
    (("language", "rank"), {"num_queries": 4}, "at most 3"),
    ((), {"num_queries": 0}, "at least 1"),
    ((), {"alpha": 1.5}, "between 0 and 1"),
    ((), {"language_weights": {"ar": 2.0}}, "language_weights cannot be"),
    (("language",), {"language_weights": {"ar": -1.0}}, "of 'ar' is -1"),
    ((), {"alpha": float("nan")}, "between 0 and 1"),
  ],
)
def test_what_the_store_lacks(tmp_path, passages, group_by, settings_, message):
  queries = make_queries(9)
  folder = write_store(tmp_path / "store", passages, queries, group_by)
  with pytest.raises(InputError, match=message):
    augment.augment(
      store=folder,
      output_dir=tmp_path / "view",
      reduction="mean",
      **settings_,
    )
  assert not (tmp_path / "view").exists()


def test_unknown_reduction():
  # The plain class, past the type checks that tests run under.
  with pytest.raises((InputError, TypeError)):
    Augmentation(reduction="product", alpha=0.1)


def test_group_mask_without_queries():
  with pytest.raises(InputError, match="without generated queries"):
    fusion.group_weights([], Augmentation(reduction="sum", alpha=0.1))


def test_view_of_a_changed_store_is_refused(tmp_path, passages):
  folder = write_store(tmp_path / "store", passages, make_queries(9))
  augment.augment(store=folder, output_dir=tmp_path / "view", reduction="mean")
  manifest = json.loads((folder / "manifest.json").read_text())
  manifest["encoder"]["fingerprint"] = "another"
  (folder / "manifest.json").write_text(json.dumps(manifest))
  with pytest.raises(InputError, match="has changed since"):
    open_view(tmp_path / "view")


def test_folder_of_another_view_is_refused(tmp_path, passages):
  folder = write_store(tmp_path / "store", passages, make_queries(9))
  for _ in range(2):  # the same again is fine
    augment.augment(
      store=folder, output_dir=tmp_path / "view", reduction="mean"
    )
  with pytest.raises(InputError, match="another alpha"):
    augment.augment(
      store=folder, output_dir=tmp_path / "view", reduction="mean", alpha=0.5
    )
