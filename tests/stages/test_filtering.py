"""The stage `filter`: what each filter removes, and that it resumes."""

import json

import numpy as np
import pytest

from tests.helpers import tiny_dual_encoder as tiny
from xqg_jax.data.generated_queries import read_generated_queries
from xqg_jax.data.passages import Passage, write_passages
from xqg_jax.errors import InputError
from xqg_jax.generation import query_files
from xqg_jax.generation.query_filters import Judge, judge_texts
from xqg_jax.stages.filter import filter_queries

PASSAGES = [
  Passage(f"p{n}", text)
  for n, text in enumerate(tiny.make_texts(13, longest=20, seed=1))
]
LANGUAGES = ("fi", "sv")


def _make_queries():
  """Passage id -> language -> texts; none for p3."""
  texts = iter(tiny.make_texts(200, longest=8, seed=3))
  queries = {
    p.passage_id: {code: [next(texts) for _ in range(3)] for code in LANGUAGES}
    for p in PASSAGES
  }
  del queries["p3"]
  queries["p0"]["fi"] = ["Red lake", "red  LAKE", " ", "синее озеро"]
  queries["p0"]["sv"] = ["red lake", "<extra_id_0> hill"]
  return queries


QUERIES = _make_queries()
SOUND = {**QUERIES, "p0": {"fi": ["Red lake"], "sv": []}}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  folder = tmp_path_factory.mktemp("world")
  tiny.write_checkpoint(folder / "encoder")
  with open(folder / "passages.tsv", "w", encoding="utf-8") as file:
    write_passages(file, PASSAGES)
  with open(folder / "queries.jsonl", "w", encoding="utf-8") as file:
    for name, by_language in QUERIES.items():
      row = {"docid": name, "generated_queries": by_language}
      file.write(json.dumps(row) + "\n")
  return folder


@pytest.fixture
def run(world, tmp_path):
  def call(name="kept", **options):
    manifest = filter_queries(
      passages=world / "passages.tsv",
      generated_queries=world / "queries.jsonl",
      output_dir=tmp_path / name,
      shard_size=5,
      **options,
    )
    return tmp_path / name, manifest

  return call


def _read(folder):
  return {
    item.passage_id: {code: list(texts) for code, texts in item.queries.items()}
    for _, item in read_generated_queries(folder)
  }


def _bytes(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob("*"))
    if path.is_file()
  }


def _without_duplicates(queries):
  found = judge_texts(list(queries.values()), ("duplicate",))
  ids = list(queries)
  return [
    (ids[query.row], query.language, query.text)
    for query in found
    if query.removed_by is None
  ]


# ------------------------------------------------------------------------ texts


def test_texts_are_judged_one_filter_after_the_other(run):
  folder, manifest = run()
  kept = _read(folder)
  assert list(kept) == list(QUERIES)
  assert kept["p0"] == {"fi": ["Red lake"], "sv": []}
  removed = manifest["removed"]
  assert removed["fi"]["empty"] == 1
  assert removed["fi"]["script"] == 1
  assert removed["sv"]["sentinel"] == 1
  assert removed["fi"]["duplicate"] >= 1
  assert removed["all"]["empty"] == 1
  num_queries = sum(len(t) for q in QUERIES.values() for t in q.values())
  assert manifest["num_queries"] == num_queries
  num_kept = sum(len(t) for q in kept.values() for t in q.values())
  assert manifest["num_kept"] == num_kept
  assert num_queries - num_kept == sum(removed["all"].values())
  assert manifest["examples"]["script"] == [
    {"docid": "p0", "language": "fi", "query": "синее озеро"}
  ]


def test_filters_can_be_left_out(run):
  folder, manifest = run(text_filters=("script",))
  assert _read(folder)["p0"]["fi"] == ["Red lake", "red  LAKE"]
  # What has no letters is in no script.
  assert manifest["removed"]["all"] == {"script": 2}


# ----------------------------------------------------------------- dual encoder


@pytest.fixture(scope="module")
def scored():
  """Score and rank of every sound query, by numpy."""
  encoder = tiny.make_encoder()
  passages = tiny.embed_one_by_one(
    encoder, [encoder.format_passage(p) for p in PASSAGES], 80
  )
  rows = {p.passage_id: row for row, p in enumerate(PASSAGES)}
  queries = _without_duplicates(SOUND)
  vectors = tiny.embed_one_by_one(
    encoder,
    [encoder.format_query(text) for _, _, text in queries],
    24,
    "query",
  )
  found = {}
  for query, vector in zip(queries, vectors, strict=True):
    scores = passages @ vector
    own = scores[rows[query[0]]]
    found[query] = (float(own), 1 + int((scores > own + 1e-6).sum()))
  return found


@pytest.mark.slow
def test_round_trip_keeps_what_finds_its_passage(run, world, scored):
  folder, manifest = run(checkpoint_path=world / "encoder", round_trip_k=4)
  expected = [query for query, (_, rank) in scored.items() if rank <= 4]
  kept = [
    (name, code, text)
    for name, by_language in _read(folder).items()
    for code, texts in by_language.items()
    for text in texts
  ]
  assert kept == expected
  assert 5 < len(kept) < len(scored) - 5
  num_lost = len(scored) - len(expected)
  assert manifest["removed"]["all"]["round_trip"] == num_lost


@pytest.mark.slow
def test_percentile_removes_the_farthest_of_all_languages(run, world, scored):
  _, manifest = run(checkpoint_path=world / "encoder", score_percentile=25)
  scores = sorted(score for score, _ in scored.values())
  place = int(len(scores) * 0.25)
  assert manifest["score_threshold"] == pytest.approx(scores[place], abs=1e-5)
  assert manifest["removed"]["all"]["score"] == place
  assert "round_trip" not in manifest["removed"]["all"]


def test_a_passage_does_not_count_against_itself():
  encoder = tiny.make_encoder()
  judge = Judge.make(encoder, PASSAGES[:4])
  found = judge_texts(
    [{"fi": [PASSAGES[0].text]}, {"fi": [PASSAGES[7].text]}], ()
  )
  scores, ranks = judge.score([PASSAGES[0], PASSAGES[7]], found)
  assert scores.shape == ranks.shape == (2,)
  sample = np.asarray(judge.sample)
  assert ranks[0] == 1 + (sample[1:] @ sample[0] > 1).sum()
  assert ranks.max() <= 5


# ----------------------------------------------------------------------- resume


@pytest.mark.slow
def test_a_stopped_run_goes_on_with_the_same_bytes(run, world, monkeypatch):
  options = {
    "checkpoint_path": world / "encoder",
    "round_trip_k": 4,
    "score_percentile": 10,
  }
  folder, manifest = run(**options)
  expected = _bytes(folder)
  write, calls = query_files._write_gzip, []

  def stopping(path, rows):
    write(path, rows)
    calls.append(path)
    if len(calls) == 2:
      raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(query_files, "_write_gzip", stopping)
    with pytest.raises(KeyboardInterrupt):
      run("broken", **options)
  broken, _ = run("broken", **options)
  assert _bytes(broken) == expected
  # A damaged shard and damaged scores are made again, a sound run is not.
  for name in ("part-00001-of-00003.jsonl.gz", "scores/00000.npz"):
    (folder / name).write_bytes((folder / name).read_bytes()[:-30])
  assert run(**options)[1] == manifest
  assert _bytes(folder) == expected
  monkeypatch.delattr(Judge, "score")
  assert run(**options)[1] == manifest


# -------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
  ("options", "expected"),
  [
    ({"text_filters": ("length",)}, "unknown text filter 'length'"),
    ({"round_trip_k": 0}, "round_trip_k is 0"),
    ({"score_percentile": 100.0}, "score_percentile is 100"),
    ({"round_trip_k": 3}, "set CHECKPOINT_PATH"),
    ({"checkpoint_path": "encoder"}, "set CHECKPOINT_PATH"),
  ],
)
def test_unfit_options_write_nothing(run, tmp_path, options, expected):
  with pytest.raises(InputError, match=expected):
    run(**options)
  assert not (tmp_path / "kept").exists()


def test_another_run_in_the_folder_is_refused(run):
  run()
  with pytest.raises(InputError, match="another text_filters"):
    run(text_filters=())
