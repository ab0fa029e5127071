"""Mining and filtering with queries that are centred."""

import json

import numpy as np
import pytest
from test_searching import world  # a fixture

from xqg_jax.augmentation.centering import (
  CenterSettings,
)
from xqg_jax.augmentation.language_means import (
  read_means,
)
from xqg_jax.checkpoints import load_dual_encoder
from xqg_jax.data.generated_queries import read_generated_queries
from xqg_jax.data.passages import Passage, read_passages
from xqg_jax.data.runs import read_run
from xqg_jax.data.training_pairs import (
  TrainingPair,
  read_training_pairs,
  write_training_pairs,
)
from xqg_jax.encoding.texts import encode_texts
from xqg_jax.errors import InputError
from xqg_jax.indexes.rescoring import FusionSettings
from xqg_jax.stages.center import center
from xqg_jax.stages.encode import encode
from xqg_jax.stages.filter import filter_queries
from xqg_jax.stages.index import build_index
from xqg_jax.stages.mine_negatives import mine_negatives
from xqg_jax.stages.search import search
from xqg_jax.store.store import open_store

__all__ = ["world"]


@pytest.fixture(scope="module")
def means(world):
  folder = world.root / "query_means"
  center(world.checkpoint, world.root / "queries.jsonl", output_dir=folder)
  return folder


def embed(world, texts):
  model = load_dual_encoder(world.checkpoint)
  return encode_texts(
    model,
    [model.format_query(text) for text in texts],
    side="query",
    max_length=model.config.query_length,
  )


def centre(means, vectors, language, strength):
  row = means.languages.index(language)
  return vectors - strength * means.means[row]


def test_negatives_are_those_of_the_centred_queries(world, means):
  passages = list(read_passages(world.root / "passages.tsv"))
  pairs = [
    TrainingPair(f"q{i}", passages[i].text, "fi", (Passage("x", "none"),))
    for i in range(4)
  ]
  with (world.root / "pairs.jsonl").open("w") as file:
    write_training_pairs(file, pairs)
  manifest = mine_negatives(
    # An exact index would do as well; ScaNN sees the same question vector.
    index=world.index,
    checkpoint_path=world.checkpoint,
    passages=world.root / "passages.tsv",
    train_pairs=world.root / "pairs.jsonl",
    output_dir=world.root / "mined",
    k=200,
    centering=CenterSettings(strength=1.5, means=means),
  )
  assert manifest["centering"]["strength"] == 1.5
  vectors = embed(world, [pair.query for pair in pairs])
  centred = centre(read_means(means), vectors, "fi", 1.5)
  stored = next(open_store(world.store).blocks(260)).passages
  mined = list(read_training_pairs(world.root / "mined" / "train_pairs.jsonl"))
  best = np.argmax(centred @ stored.T, axis=1)
  for pair, row in zip(mined, best, strict=True):
    assert pair.negatives[0].passage_id == f"p{row}"
  # Otherwise the test would say nothing.
  assert (best != np.argmax(vectors @ stored.T, axis=1)).any()


def test_round_trips_are_those_of_the_centred_queries(world, means, capsys):
  def run(name, **options):
    return filter_queries(
      passages=world.root / "passages.tsv",
      generated_queries=world.root / "queries.jsonl",
      output_dir=world.root / name,
      text_filters=(),
      checkpoint_path=world.checkpoint,
      round_trip_k=1,
      **options,
    )

  settings = CenterSettings(strength=1.5, means=means)
  manifest = run("filtered", centering=settings)
  stored = next(open_store(world.store).blocks(260)).passages
  means_of, expected = read_means(means), {"ar": 0, "fi": 0}
  generated = read_generated_queries(world.root / "queries.jsonl")
  queries = [found.queries for _, found in generated]
  for language in expected:
    texts = [of_passage[language][0] for of_passage in queries]
    centred = centre(means_of, embed(world, texts), language, 1.5)
    scores = centred @ stored.T
    best = scores.max(axis=1) - 1e-6
    expected[language] = int((np.diagonal(scores) >= best).sum())
  kept = {name: row["kept"] for name, row in manifest["kept"].items()}
  assert kept == expected
  assert all(row["of"] == 260 for row in manifest["kept"].values())
  line = f"ar {expected['ar']} of 260, fi {expected['fi']} of 260"
  assert line in capsys.readouterr().err
  assert manifest["centering"]["strength"] == 1.5
  assert run("unfiltered")["kept"] != manifest["kept"]
  written = json.loads((world.root / "filtered" / "manifest.json").read_text())
  assert written["kept"] == manifest["kept"]


def test_centring_without_means_or_scores_is_refused(world, means):
  arguments = {
    "passages": world.root / "passages.tsv",
    "generated_queries": world.root / "queries.jsonl",
    "output_dir": world.root / "nowhere",
  }
  with pytest.raises(InputError, match="set ROUND_TRIP_K"):
    filter_queries(
      **arguments, centering=CenterSettings(strength=0.8, means=means)
    )
  with pytest.raises(InputError, match=r"no means .*set CENTER_MEANS"):
    filter_queries(
      **arguments,
      checkpoint_path=world.checkpoint,
      round_trip_k=1,
      centering=CenterSettings(strength=0.8),
    )
  assert not (world.root / "nowhere").exists()


def test_search_scores_again_by_the_best_language(world, means):
  store = world.root / "by_language"
  encode(
    checkpoint_path=world.checkpoint,
    passages=world.root / "passages.tsv",
    generated_queries=world.root / "queries.jsonl",
    group_queries_by=("language",),
    output_dir=store,
  )
  index = world.root / "by_language_index"
  build_index(embeddings=store, output_dir=index, kind="exact")
  arguments = {
    "questions": world.questions,
    "checkpoint_path": world.checkpoint,
    "k": 260,
    "fusion": FusionSettings(kind="best", alpha=0.4),
  }
  found = search(
    index=index,
    output_dir=world.root / "best",
    centering=CenterSettings(strength=0.8, means=means),
    **arguments,
  )
  (block,) = open_store(store).blocks(1000)
  questions = np.load(found / "question_embeddings.npy")
  # One query a language: the sums are the queries.
  queries = np.einsum("qd,pgd->qpg", questions, block.query_sums)
  expected = 0.6 * questions @ block.passages.T + 0.4 * queries.max(axis=2)
  run = read_run(found / "run.trec")
  for row, scores in enumerate(expected):
    given = [run[f"q{row}"][f"p{i}"] for i in range(260)]
    np.testing.assert_allclose(given, scores, atol=1e-5)
  manifest = json.loads((found / "manifest.json").read_text())
  assert manifest["fusion"] == {"kind": "best", "alpha": 0.4}
  with pytest.raises(InputError, match="one sum a language"):
    search(index=world.index, output_dir=world.root / "one", **arguments)
  assert not (world.root / "one").exists()
