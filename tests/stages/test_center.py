"""The stage `center`, and the verbs that subtract its means from questions."""

import json

import numpy as np
import pytest
from test_searching import world  # a fixture

from xqg_jax.augmentation.centering import (
  NO_CENTERING,
  CenterSettings,
)
from xqg_jax.augmentation.language_means import (
  measure_means,
  read_means,
)
from xqg_jax.augmentation.views import open_view
from xqg_jax.checkpoints import load_dual_encoder
from xqg_jax.cli.main import main
from xqg_jax.data.question_bank import BANK_FILE, read_bank
from xqg_jax.data.questions import Question, read_questions, write_questions
from xqg_jax.data.runs import read_run
from xqg_jax.encoding.texts import encode_texts
from xqg_jax.errors import InputError
from xqg_jax.evaluation.center_grid import CenterGrid
from xqg_jax.indexes.scann.tuning import make_tuning_queries
from xqg_jax.stages import center as center_stage
from xqg_jax.stages.augment import augment
from xqg_jax.stages.center import center
from xqg_jax.stages.encode import encode
from xqg_jax.stages.evaluate import evaluate
from xqg_jax.stages.index import _read_queries, build_index
from xqg_jax.stages.search import search
from xqg_jax.stages.store_export import export_store
from xqg_jax.stages.tune_alpha import tune_alpha
from xqg_jax.store.store import open_store

__all__ = ["world"]

QUERIES = {
  "fi": ["river king", "stone bridge in winter", "north train"],
  "ru": ["music", "garden castle"],
}


class Letters:
  """An encoder whose vectors can be worked out by hand: counts of a and b."""

  def encode(self, texts):
    return np.array([[t.count("a"), t.count("b")] for t in texts])


class QueryLetters(Letters):
  def encode_query(self, texts):
    return self.encode(texts) + 1


def embed(world, texts):
  model = load_dual_encoder(world.checkpoint)
  return encode_texts(
    model,
    [model.format_query(text) for text in texts],
    side="query",
    max_length=model.config.query_length,
  )


@pytest.fixture(scope="module")
def means_dir(world):
  """Means of the generated queries (ar, fi): none of ja and ru."""
  folder = world.root / "means"
  center(world.checkpoint, world.root / "queries.jsonl", output_dir=folder)
  return folder


@pytest.fixture(scope="module")
def plain(world):
  return _search(world, "plain")


def _search(world, name, **arguments):
  given = {
    "index": world.index,
    "questions": world.questions,
    "checkpoint_path": world.checkpoint,
    "output_dir": world.root / name,
    "k": 20,
  }
  return search(**given | arguments)


# --------------------------------------------------------------------- the bank


def test_the_bank_has_32_questions_in_each_of_20_languages():
  by_language = {}
  for language, question in read_bank():
    by_language.setdefault(language, []).append(question)
  assert len(by_language) >= 20
  assert {"ar", "bn", "fi", "ja", "ko", "ru", "te"} <= set(by_language)
  for questions in by_language.values():
    assert len(set(questions)) == len(questions) >= 32


def test_a_bank_is_questions_or_generated_queries(tmp_path):
  questions = tmp_path / "questions.jsonl"
  with questions.open("w") as file:
    write_questions(file, [Question("1", "missä?", "fi")])
  assert list(read_bank(questions)) == [("fi", "missä?")]
  generated = tmp_path / "generated" / "part.jsonl"
  generated.parent.mkdir()
  row = {"docid": "1", "generated_queries": {"ru": ["где?", " "], "fi": []}}
  generated.write_text(json.dumps(row))
  assert list(read_bank(generated)) == [("ru", "где?")]
  assert list(read_bank(generated.parent)) == [("ru", "где?")]


# -------------------------------------------------------------------- the means


def test_any_encoder_with_any_queries():
  queries = {"fi": ["aab", "a"], "ko": ["bbbb"]}
  expected = [[1.5, 0.5], [0, 4]]
  for encoder in (Letters(), Letters().encode):
    found = center(encoder, queries)
    assert found.languages == ("fi", "ko")
    assert found.means.tolist() == expected
    assert found.encoder_fingerprint is None
  # Models that tell queries from documents are asked for queries.
  assert center(QueryLetters(), queries).means.tolist() == [[2.5, 1.5], [1, 5]]
  centred = found.apply(Letters().encode(["ab"]), ["fi"])
  assert centred.tolist() == [[-0.5, 0.5]]


def test_means_are_those_of_the_encoder_one_by_one(world):
  model = load_dual_encoder(world.checkpoint)
  found = center(model, QUERIES)
  for language, texts in QUERIES.items():
    vectors = embed(world, texts).astype(np.float64)
    row = found.languages.index(language)
    np.testing.assert_allclose(found.means[row], vectors.mean(axis=0))
  assert found.counts.tolist() == [3, 2]
  assert found.encoder_fingerprint == model.fingerprint


def test_the_bank_is_the_default():
  found = center(Letters())
  assert found.counts.sum() == len(BANK_FILE.read_text().splitlines())


def test_a_run_goes_on_with_the_same_bytes(world, tmp_path, monkeypatch):
  monkeypatch.setattr(center_stage, "_PART_SIZE", 100)
  arguments = world.checkpoint, world.root / "queries.jsonl"
  whole = center(*arguments, output_dir=tmp_path / "whole")
  measured, calls = center_stage._measure, []

  def stop_at_the_third(encoder, texts):
    calls.append(len(texts))
    if len(calls) == 3:
      raise KeyboardInterrupt
    return measured(encoder, texts)

  monkeypatch.setattr(center_stage, "_measure", stop_at_the_third)
  with pytest.raises(KeyboardInterrupt):
    center(*arguments, output_dir=tmp_path / "broken")
  damaged = tmp_path / "broken" / "parts" / "00001.json"
  damaged.write_text(damaged.read_text()[:-20])
  center(*arguments, output_dir=tmp_path / "broken")
  # 260 passages with 2 queries: the first part is not made again.
  assert calls == [100] * 3 + [100] * 4 + [20]
  files = [tmp_path / n / "question_means.json" for n in ("whole", "broken")]
  assert files[0].read_bytes() == files[1].read_bytes()
  assert not (tmp_path / "broken" / "parts").exists()
  assert whole.counts.tolist() == [260, 260]
  # An identical call reads what is there; another is refused.
  assert center(*arguments, output_dir=tmp_path / "whole").counts.sum() == 520
  with pytest.raises(InputError, match="another queries"):
    center(world.checkpoint, QUERIES, output_dir=tmp_path / "whole")


@pytest.mark.parametrize(
  ("encoder", "queries", "message"),
  [
    (None, QUERIES, "no encoder .*set CHECKPOINT_PATH"),
    (Letters(), {"finnish": ["a"]}, "unknown language 'finnish'"),
    (Letters(), {}, "no questions to take means of"),
    (lambda texts: np.zeros(2), QUERIES, r"shape \(2,\) of 5 texts"),
    (lambda texts: np.full((5, 2), np.nan), QUERIES, "question 0 holds NaN"),
  ],
)
def test_bad_input_is_refused(encoder, queries, message, tmp_path):
  with pytest.raises(InputError, match=message):
    center(encoder, queries)
  with pytest.raises(InputError, match=message):
    center(encoder, queries, output_dir=tmp_path / "means")
  assert not (tmp_path / "means" / "question_means.json").exists()


# ----------------------------------------------------------------------- search


def test_search_subtracts_the_means(world, means_dir, plain, capsys):
  settings = CenterSettings(strength=0.8, means=means_dir)
  centred = _search(world, "centred", centering=settings)
  assert "without a mean of their language: ja 4, ru 4" in (
    capsys.readouterr().err
  )
  means = read_means(means_dir)
  before = np.load(plain / "question_embeddings.npy")
  expected = before.astype(np.float64)
  for row in range(12):  # ar, ja, ru, ar, ...: only ar has a mean of its own
    mean = means.means[0] if row % 3 == 0 else means.overall
    expected[row] -= 0.8 * mean
  after = np.load(centred / "question_embeddings.npy")
  np.testing.assert_allclose(after, expected, atol=1e-6)
  # The ranking is that of the centred vectors.
  passages = next(open_store(world.store).blocks(260)).passages
  run = read_run(centred / "run.trec")
  for row, scores in enumerate(after @ passages.T):
    best = np.argsort(-scores)[:5]
    assert list(run[f"q{row}"])[:5] == [f"p{i}" for i in best]
  noted = json.loads((centred / "manifest.json").read_text())["centering"]
  assert noted == {
    "strength": 0.8,
    "by": "language",
    "means_fingerprint": means.fingerprint,
    "means": "../means",
  }


def test_a_store_with_generated_queries_has_its_means(world, means_dir, plain):
  by_store = _search(
    world, "by_store", centering=CenterSettings(strength=1.0, by="all")
  )
  mean = read_means(means_dir).overall
  expected = np.load(plain / "question_embeddings.npy") - mean
  found = np.load(by_store / "question_embeddings.npy")
  np.testing.assert_allclose(found, expected, atol=1e-6)
  manifest = json.loads((by_store / "manifest.json").read_text())
  assert manifest["centering"]["means"] == "../store"


def test_strength_0_searches_as_before(world, plain):
  settings = CenterSettings(strength=0.0, by="all")
  same = _search(world, "same", centering=settings)
  for name in ("run.trec", "question_embeddings.npy"):
    assert (same / name).read_bytes() == (plain / name).read_bytes()
  assert "centering" not in json.loads((same / "manifest.json").read_text())


def test_scann_and_exact_see_one_question_vector(world, means_dir):
  scann = build_index(
    embeddings=world.store,
    output_dir=world.root / "scann",
    kind="scann",
    target_index_recall=1.0,
    k=20,
  )
  settings = CenterSettings(strength=1.0, by="all", means=means_dir)
  exact = _search(world, "by_exact", centering=settings)
  approximate = _search(world, "by_scann", index=scann.path, centering=settings)
  vectors = [
    np.load(folder / "question_embeddings.npy")
    for folder in (exact, approximate)
  ]
  np.testing.assert_array_equal(*vectors)
  runs = [read_run(folder / "run.trec") for folder in (exact, approximate)]
  for question in runs[0]:
    assert list(runs[0][question])[:5] == list(runs[1][question])[:5]


def test_an_index_is_tuned_for_centred_questions(world, means_dir, plain):
  settings = CenterSettings(strength=0.8, means=means_dir)
  centred = _search(world, "centred", centering=settings)

  def tune(name, **options):
    return build_index(
      embeddings=world.store,
      output_dir=world.root / name,
      k=20,
      num_tuning_queries=6,
      **options,
    ).manifest

  # By the questions as they were searched, or by a folder of either search.
  by_file = tune("by_file", tuning_queries=centred / "question_embeddings.npy")
  by_plain = tune("by_plain", tuning_queries=plain, centering=settings)
  by_centred = tune("by_centred", tuning_queries=centred, centering=settings)
  keys = ("parameters", "assets")
  for found in (by_plain, by_centred):
    assert [found[key] for key in keys] == [by_file[key] for key in keys]
    recall = found["measured"]["index_recall"]
    assert recall == by_file["measured"]["index_recall"]
  # Passages moved by noise lose the mean over all.
  view, how = open_view(world.store), {"num_queries": 12, "seed": 0}
  opened = settings.open(store=None, encoder_fingerprint=None)
  moved = _read_queries(None, view, opened, **how)
  expected = make_tuning_queries(view, **how)
  expected = expected - 0.8 * read_means(means_dir).overall
  np.testing.assert_allclose(moved, expected, atol=1e-6)
  assert _read_queries(None, view, NO_CENTERING, **how) is None


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"strength": 2.5}, "strength of centring is 2.5; choose 0 to 2"),
    ({"strength": float("nan")}, "strength of centring is nan"),
    ({"strength": 0.8, "means": "nothing"}, "no such file; make means"),
    ({"strength": 0.8, "means": "other"}, "means are of another encoder"),
    ({"strength": 0.8, "means": "narrow"}, "16 dimensions, the means have 2"),
  ],
)
def test_means_that_do_not_fit_are_refused(world, changes, message):
  center(Letters(), QUERIES).write(world.root / "narrow")
  other = world.root / "other"
  if not other.exists():
    other.mkdir()
    vectors = np.ones((1, 16), np.float32)
    measure_means(vectors, ["fi"], encoder_fingerprint="f" * 64).write(other)
  if changes.get("means"):
    changes = {**changes, "means": world.root / changes["means"]}
  with pytest.raises(InputError, match=message) as caught:
    _search(world, "refused", centering=CenterSettings(**changes))
  assert "\n" not in str(caught.value)
  assert not (world.root / "refused" / "run.trec").exists()


# ------------------------------------------------------- evaluation and tuning


def test_means_of_a_searched_folder_are_those_before_centring(
  world, means_dir, plain
):
  settings = CenterSettings(strength=0.8, means=means_dir)
  centred = _search(world, "centred", centering=settings)
  of_plain, of_centred = center(None, plain), center(None, centred)
  assert of_plain.languages == ("ar", "ja", "ru")
  np.testing.assert_allclose(of_centred.means, of_plain.means, atol=1e-7)
  assert of_plain.encoder_fingerprint == of_centred.encoder_fingerprint


def test_evaluate_scores_a_grid_of_strengths(world, means_dir, plain):
  settings = CenterSettings(strength=0.8, means=means_dir)
  centred = _search(world, "centred", centering=settings)
  # Each question's answer is a passage: any that search finds will do.
  qrels = world.root / "qrels.tsv"
  run = read_run(centred / "run.trec")
  rows = [f"{q} 0 {next(iter(found))} 1" for q, found in run.items()]
  qrels.write_text("".join(f"{row}\n" for row in rows))
  found = evaluate(
    runs={"base": plain, "searched": centred},
    questions=world.questions,
    passages=world.root / "passages.tsv",
    qrels=qrels,
    token_budgets=(),
    measures=("RR@10",),
    alphas=(0.1,),
    reduction="mean",
    centers=CenterGrid(strengths=(0.0, 0.8), means=means_dir),
    output_dir=world.root / "scores",
    tokenizer="no_sentences",
    rounds=100,
  )
  variants = found.metrics["variants"]
  assert list(variants) == [
    "base",
    "searched",
    "mean 0.1",
    "base, centre 0",
    "mean 0.1, centre 0",
    "base, centre 0.8",
    "mean 0.1, centre 0.8",
  ]

  def value(name):
    return variants[name]["measures"]["RR@10"]["macro"]["value"]

  assert value("searched") == value("base, centre 0.8") == 100
  assert value("base") == value("base, centre 0") < 100
  assert value("mean 0.1") == value("mean 0.1, centre 0")
  assert variants["searched"]["centering"]["strength"] == 0.8
  assert variants["base, centre 0.8"]["centering"]["strength"] == 0.8
  assert variants["base"]["centering"] is None

  tuned = tune_alpha(
    search=plain,
    questions=world.questions,
    passages=world.root / "passages.tsv",
    qrels=qrels,
    alphas=(),
    centers=CenterGrid(strengths=(0.4, 0.8), means=means_dir),
    measure="RR@10",
    num_folds=2,
    output_dir=world.root / "tuned",
  )
  assert (tuned["center"], tuned["alpha"]) == (0.8, 0.0)
  assert list(tuned["center_curve"]) == ["0", "0.4", "0.8"]
  assert tuned["center_curve"]["0"] == pytest.approx(value("base"))
  assert tuned["center_curve"]["0.8"] == 100
  assert tuned["cross_validated"]["alpha_0"] == pytest.approx(value("base"))


def test_augmentations_of_a_centred_search_stay_centred(world, means_dir):
  settings = CenterSettings(strength=0.8, means=means_dir)
  centred = _search(world, "centred", centering=settings)
  view = world.root / "view"
  if not view.exists():
    augment(store=world.store, output_dir=view, reduction="mean", alpha=0.1)
    build_index(
      embeddings=view, output_dir=world.root / "view_index", kind="exact"
    )
  searched = _search(
    world,
    "view_centred",
    index=world.root / "view_index",
    centering=settings,
  )
  found = evaluate(
    runs={"centred": centred},
    questions=world.questions,
    passages=world.root / "passages.tsv",
    token_budgets=(),
    measures=("RR@10",),
    alphas=(0.1,),
    reduction="mean",
    k=20,
    output_dir=world.root / "centred_scores",
    tokenizer="no_sentences",
    rounds=100,
  )
  assert found.metrics["variants"]["mean 0.1"]["centering"]["strength"] == 0.8
  scored = read_run(world.root / "centred_scores" / "runs" / "mean_0.1.trec")
  expected = read_run(searched / "run.trec")
  for question in expected:
    assert list(scored[question])[:5] == list(expected[question])[:5]


def test_the_means_must_still_be_there(world, means_dir, plain):
  folder = world.root / "gone"
  center(world.checkpoint, QUERIES, output_dir=folder)
  settings = CenterSettings(strength=0.5, means=folder)
  centred = _search(world, "lost", centering=settings)
  grid = CenterGrid(strengths=(0.0,), means=means_dir)
  center(load_dual_encoder(world.checkpoint), {"fi": ["river"]}).write(folder)
  with pytest.raises(InputError, match="not the means that the questions"):
    tune_alpha(
      search=centred,
      questions=world.questions,
      passages=world.root / "passages.tsv",
      centers=grid,
      measure="RR@10",
      num_folds=2,
      output_dir=world.root / "untuned",
    )


# ------------------------------------------------------------- other engines


def test_the_export_says_what_to_subtract(world, means_dir, plain):
  settings = CenterSettings(strength=0.8, means=means_dir)
  centred = _search(world, "centred", centering=settings)
  out = export_store(
    store=world.store,
    output_dir=world.root / "exported",
    center_means=means_dir,
  )
  means = np.load(out / "question_means.npy")
  text = (out / "question_means_languages.txt").read_text()
  languages = text.splitlines()
  assert languages == ["ar", "fi", "all"]
  assert means.dtype == np.float32
  # The line of numpy, with the languages of the questions: ar, ja, ru, ...
  questions = np.load(plain / "question_embeddings.npy")
  question = questions[0] - 0.8 * means[languages.index("ar")]
  searched = np.load(centred / "question_embeddings.npy")
  np.testing.assert_allclose(question, searched[0], atol=1e-6)
  question = questions[1] - 0.8 * means[languages.index("all")]
  np.testing.assert_allclose(question, searched[1], atol=1e-6)
  # The exported vectors give the ranking that the search gave.
  vectors = np.load(out / "embeddings.npy")
  best = np.argsort(-(vectors @ searched[0]))[:5]
  run = read_run(centred / "run.trec")
  assert list(run["q0"])[:5] == [f"p{row}" for row in best]
  assert "pgvector" in (out / "centering.txt").read_text()


def test_an_export_without_means_has_none(world, tmp_path):
  bare = world.root / "bare_store"
  encode(
    checkpoint_path=world.checkpoint,
    passages=world.root / "passages.tsv",
    output_dir=bare,
  )
  out = export_store(store=bare, output_dir=tmp_path / "exported")
  assert not (out / "question_means.npy").exists()
  other = tmp_path / "other"
  other.mkdir()
  center(Letters(), QUERIES).write(other)
  with pytest.raises(InputError, match="16 dimensions, the means have 2"):
    export_store(store=bare, output_dir=tmp_path / "no", center_means=other)
  assert not (tmp_path / "no").exists()


# ----------------------------------------------------------- the command line


def test_the_command_line(world, tmp_path, capsys):
  code = main(
    [
      "center",
      f"--gin.CHECKPOINT_PATH={world.checkpoint}",
      f"--gin.QUERIES={world.root / 'queries.jsonl'}",
      f"--gin.OUTPUT_DIR={tmp_path / 'means'}",
    ]
  )
  assert code == 0
  error = capsys.readouterr().err
  assert "means of 520 questions in 2 languages: ar 260, fi 260" in error
  common = [
    "search",
    f"--gin.CHECKPOINT_PATH={world.checkpoint}",
    f"--gin.INDEX={world.index}",
    f"--gin.QUESTIONS={world.questions}",
  ]
  code = main(
    [
      *common,
      f"--gin.OUTPUT_DIR={tmp_path / 'found'}",
      "--gin.CENTER=0.8",
      "--gin.CENTER_BY=all",
      f"--gin.CENTER_MEANS={tmp_path / 'means'}",
    ]
  )
  assert code == 0
  manifest = json.loads((tmp_path / "found" / "manifest.json").read_text())
  assert manifest["centering"]["by"] == "all"
  asked = read_questions(world.questions)
  vectors = embed(world, [question.question for question in asked])
  expected = vectors - 0.8 * read_means(tmp_path / "means").overall
  found = np.load(tmp_path / "found" / "question_embeddings.npy")
  np.testing.assert_allclose(found, expected, atol=1e-6)
  capsys.readouterr()
  code = main(
    [*common, f"--gin.OUTPUT_DIR={tmp_path / 'no'}", "--gin.CENTER=3"]
  )
  assert code == 2
  assert capsys.readouterr().err.endswith(
    "the strength of centring is 3; choose 0 to 2\n"
  )
