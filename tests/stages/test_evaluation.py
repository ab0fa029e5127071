"""Tests of evaluation: the numbers, the files, and what is refused."""

import json
import pathlib
import types

import numpy as np
import pytest

from tests.helpers.tiny_store import write_store
from xqg_jax.augmentation.settings import Augmentation
from xqg_jax.data.passages import Passage, write_passages
from xqg_jax.data.questions import Question, write_questions
from xqg_jax.data.runs import read_run, write_run
from xqg_jax.errors import InputError
from xqg_jax.evaluation.comparison import Scores, compare_variants, read_scores
from xqg_jax.evaluation.results import load_evaluation
from xqg_jax.evaluation.variants import (
  plan_augmentations,
  read_variant,
  score_augmentations,
)
from xqg_jax.io.files import sha256_file
from xqg_jax.stages.augment import augment
from xqg_jax.stages.evaluate import evaluate, to_file_names
from xqg_jax.stages.pool import pool
from xqg_jax.stages.submit import submit
from xqg_jax.store.shards import ShardArrays
from xqg_jax.store.store import open_store

PASSAGES = [
  Passage("p1", "Oulu was founded in 1605 .", "Oulu"),
  Passage("p2", "Vaasa was founded in 1606 .", "Vaasa"),
  Passage("p3", "Nothing is known of it .", "It"),
]
QUESTIONS = [
  Question("q1", "Milloin Oulu?", "fi", ("1605",)),
  Question("q2", "Milloin Vaasa?", "fi", ("1606", "the year 1606")),
  Question("q3", "Когда Оулу?", "ru", ("1605",)),
  Question("q4", "Да?", "ru", ("yes",)),
]
BASE = {
  "q1": {"p3": 3.0, "p1": 2.0},
  "q2": {"p3": 3.0, "p1": 2.0, "p2": 1.0},
  "q3": {"p1": 3.0},
  "q4": {"p1": 3.0},
}
BETTER = {
  "q1": {"p1": 3.0, "p3": 2.0},
  "q2": {"p2": 3.0, "p3": 1.0},
  "q3": {"p3": 3.0, "p1": 1.0},
  "q4": {"p1": 3.0},
}


@pytest.fixture
def world(tmp_path):
  paths = types.SimpleNamespace(
    root=tmp_path,
    passages=tmp_path / "passages.tsv",
    questions=tmp_path / "questions.jsonl",
    base=tmp_path / "base.trec",
    better=tmp_path / "better.trec",
    out=tmp_path / "out",
  )
  with paths.passages.open("w") as file:
    write_passages(file, PASSAGES)
  with paths.questions.open("w") as file:
    write_questions(file, QUESTIONS)
  write_run(paths.base, BASE)
  write_run(paths.better, BETTER)
  return paths


def run_evaluation(world, **changes):
  arguments = {
    "runs": {"base": world.base, "better": world.better},
    "questions": world.questions,
    "passages": world.passages,
    "output_dir": world.out,
    "token_budgets": (6, 12),
    "measures": ("RR@10", "Success@1"),
    "tokenizer": "no_sentences",
    "rounds": 100,
  }
  return evaluate(**{**arguments, **changes})


# --------------------------------------------------------------------- numbers


def test_values_by_hand(world):
  result = run_evaluation(world).result
  # Six tokens are the first passage: base finds q3 only; better q1 and q2.
  assert result("base", "R@6t", "fi")["value"] == 0.0
  assert result("base", "R@6t", "ru")["value"] == 100.0
  assert result("base", "R@6t")["value"] == 50.0  # macro, not micro (33.3)
  assert result("better", "R@6t", "fi")["value"] == 100.0
  assert result("better", "R@6t", "ru")["value"] == 0.0
  # Twelve are two passages: base finds q1, not q2, and q3.
  assert result("base", "R@12t")["value"] == 75.0
  assert result("better", "R@12t")["value"] == 100.0
  assert result("base", "RR@10", "fi")["value"] == pytest.approx(
    100 * (1 / 2 + 1 / 3) / 2
  )
  assert result("base", "Success@1")["value"] == 50.0
  assert result("base", "R@6t", "ru")["n"] == 1  # q4 has only "yes"
  assert result("base", "R@6t")["n"] == 3


def test_comparison_by_hand(world):
  evaluation = run_evaluation(world)
  assert "difference" not in evaluation.result("base", "RR@10")
  finnish = evaluation.result("better", "R@6t", "fi")
  assert finnish["difference"] == 100.0
  assert finnish["p"] == 0.5  # two wins: 2 of 4 sign patterns
  assert finnish["p_holm"] == 1.0
  macro = evaluation.result("better", "R@6t")
  assert macro["difference"] == 0.0
  assert macro["p"] == 1.0
  assert macro["interval"] == [0.0, 0.0]  # every resample of a language agrees


def test_comparison_of_a_clear_winner():
  rng = np.random.default_rng(0)
  base = rng.random((400, 1)) * 0.5
  scores = Scores(
    tuple(f"q{i}" for i in range(400)),
    tuple("ar" if i < 300 else "fi" for i in range(400)),
    ("RR@10",),
    {"base": base, "more": base + rng.random((400, 1)) * 0.1},
  )
  compared = compare_variants(scores, baseline="base", rounds=1000, seed=0)
  macro = compared["more"]["RR@10"]["macro"]
  by_language = compared["more"]["RR@10"]["languages"]
  assert macro["p"] == 1 / 1001
  assert by_language["ar"]["p_holm"] == pytest.approx(2 / 1001)
  low, high = macro["interval"]
  assert low < macro["difference"] < high
  assert macro["difference"] == pytest.approx(
    (by_language["ar"]["difference"] + by_language["fi"]["difference"]) / 2
  )


def test_baseline_can_be_chosen_and_comes_first(world):
  evaluation = run_evaluation(world, baseline="better")
  assert list(evaluation.metrics["variants"]) == ["better", "base"]
  assert evaluation.result("base", "R@12t")["difference"] == -25.0


def test_qrels(world):
  qrels = world.root / "qrels.jsonl"
  qrels.write_text(
    '{"id": "q1", "chunks": ["p1", "p2"]}\n{"id": "q3", "chunks": ["p1"]}\n'
    '{"id": "another", "chunks": ["p9"]}\n'
  )
  evaluation = run_evaluation(
    world, qrels=qrels, qrels_field="chunks", measures=("R@2", "RR@10")
  )
  assert evaluation.metrics["relevance"] == "qrels"
  assert evaluation.result("base", "R@2", "fi") == {"value": 50.0, "n": 1}
  assert evaluation.result("base", "R@2", "ru")["value"] == 100.0
  assert evaluation.metrics["measures"][-2:] == [
    {"name": "R@2", "label": "Recall@2"},
    {"name": "RR@10", "label": "MRR@10"},
  ]


def test_measures_that_need_qrels_are_left_out_and_named(world):
  evaluation = run_evaluation(world, measures=("RR@10", "nDCG@10", "R@5"))
  names = [m["name"] for m in evaluation.metrics["measures"]]
  assert names == ["R@6t", "R@12t", "RR@10"]
  assert "left out without qrels: nDCG@10, R@5" in evaluation.table


def test_without_answers_qrels_suffice(world):
  with world.questions.open("w") as file:
    write_questions(file, [Question("q1", "?", "fi")])
  write_run(world.base, {"q1": BASE["q1"]})
  (world.root / "qrels.txt").write_text("q1 0 p1 1\n")
  evaluation = run_evaluation(
    world,
    runs={"base": world.base},
    qrels=world.root / "qrels.txt",
    token_budgets=(),
  )
  assert evaluation.result("base", "RR@10")["value"] == 50.0


def test_questions_without_results_fail_and_are_named(world):
  write_run(world.better, {"q1": BETTER["q1"]})
  evaluation = run_evaluation(world)
  assert evaluation.result("better", "R@12t", "ru")["value"] == 0.0
  assert evaluation.metrics["variants"]["better"]["missing_questions"] == 3
  assert "better: no results for 3 of 4 questions" in evaluation.table


def test_files_of_other_systems_stand_in_the_same_table(world):
  """XOR's form, DPR's objects in it, and Anserini's runs with tabs."""
  dpr = {"id": "wiki:1", "title": "Oulu", "text": PASSAGES[0].text}
  rows = [
    {"id": "q1", "lang": "fi", "ctxs": ["Unknown text .", PASSAGES[0].text]},
    {"id": "q2", "lang": "fi", "ctxs": [PASSAGES[1].text] * 2},
    {"id": "q3", "lang": "ru", "question": "?", "ctxs": [dpr]},
  ]
  path = world.root / "peer.json"
  path.write_text(json.dumps(rows))
  anserini = world.root / "run.anserini.bm25.txt"
  anserini.write_text(
    "q1\tQ0\tp1\t1\t12.345600\tAnserini\n"
    "q2 Q0 p3 1 7.100000 Anserini\nq2 Q0 p2 2 7.100000 Anserini\n"
  )
  (world.root / "qrels.txt").write_text("q1 0 p1 1\nq2 0 p2 1\nq3 0 p1 1\n")
  evaluation = run_evaluation(
    world,
    runs={"base": world.base, "peer": path, "bm25": anserini},
    qrels=world.root / "qrels.txt",
  )
  result = evaluation.result
  assert result("peer", "R@12t", "fi")["value"] == 100.0
  assert result("peer", "R@6t", "fi")["value"] == 50.0
  assert result("peer", "RR@10", "fi")["value"] == 75.0
  assert result("peer", "RR@10", "ru")["value"] == 100.0
  assert result("bm25", "RR@10", "fi")["value"] == 75.0
  assert result("bm25", "RR@10", "ru")["value"] == 0.0
  rows = [line.split()[0] for line in evaluation.table.splitlines()[:4]]
  assert rows == ["R@6t", "base", "peer", "bm25"]
  assert "peer: 2 texts are no passage of the collection" in evaluation.table


def test_submission_for_the_leaderboard(world, capsys):
  with world.questions.open("w") as file:  # as the test set: no answers
    write_questions(file, [Question(f"q{n}", "?", "fi") for n in (1, 2, 3, 9)])
  write_run(world.better, {q: BETTER[q] for q in ("q1", "q2", "q3")})
  path = submit(
    run=world.better,
    questions=world.questions,
    passages=world.passages,
    output_dir=world.out,
  )
  rows = json.loads(path.read_text())
  assert [row["id"] for row in rows] == ["q1", "q2", "q3", "q9"]
  assert rows[0] == {
    "id": "q1",
    "lang": "fi",
    "ctxs": [PASSAGES[0].text, PASSAGES[2].text],
  }
  told = capsys.readouterr().err
  assert "1 of 4 questions have no passages" in told
  assert "3 of 4 questions may have fewer than 5,000 tokens" in told
  with pytest.raises(InputError, match="results for 1 questions that are not"):
    submit(
      run=world.base,
      questions=world.questions,
      passages=world.passages,
      output_dir=world.root / "other",
    )


# ----------------------------------------------------------------------- files


def test_files(world, capsys):
  evaluation = run_evaluation(world)
  out = world.out
  assert capsys.readouterr().out.strip() == evaluation.table.strip()
  assert (out / "table.txt").read_text() == evaluation.table
  assert read_run(out / "runs/better.trec") == read_run(world.better)
  predictions = json.loads((out / "predictions/better.json").read_text())
  assert predictions[1] == {
    "id": "q2",
    "lang": "fi",
    "ctxs": [PASSAGES[1].text, PASSAGES[2].text],
  }
  rows = [
    json.loads(line)
    for line in (out / "per_question.jsonl").read_text().splitlines()
  ]
  assert rows[0] == {
    "id": "q1",
    "lang": "fi",
    "values": {"base": [0.0, 1.0, 0.5, 0.0], "better": [1.0, 1.0, 1.0, 1.0]},
  }
  assert rows[3]["values"]["base"] == [None] * 4
  manifest = json.loads((out / "manifest.json").read_text())
  assert manifest["stage"] == "evaluate"
  assert "metrics.json" in manifest["files"]


def test_scores_are_read_back(world):
  evaluation = run_evaluation(world)
  names = [m["name"] for m in evaluation.metrics["measures"]]
  scores = read_scores(world.out / "per_question.jsonl", names)
  assert scores.column("base", "RR@10")[:3].tolist() == [1 / 2, 1 / 3, 1.0]
  assert np.isnan(scores.column("base", "RR@10")[3])


def test_examples(world):
  run_evaluation(world)
  examples = json.loads((world.out / "examples.json").read_text())
  assert examples["variant"] == "better"
  assert examples["measure"] == "RR@10"
  assert [e["id"] for e in examples["won"]] == ["q2", "q1"]
  assert [e["id"] for e in examples["lost"]] == ["q3"]
  won = examples["won"][0]
  assert won["values"] == [pytest.approx(1 / 3), 1.0]
  before, after = won["passages"]
  assert [p["id"] for p in before] == ["p3", "p1", "p2"]
  assert [p["has_answer"] for p in after] == [True, False]


def test_examples_mark_only_the_answers_that_are_scored(world):
  question = Question("q2", "Milloin Vaasa?", "fi", ("no", "1606"))
  with world.questions.open("w") as file:
    write_questions(file, [*QUESTIONS[:1], question, *QUESTIONS[2:]])
  text = world.passages.read_text()
  world.passages.write_text(text.replace("Nothing is", "There is no thing"))
  run_evaluation(world)
  examples = json.loads((world.out / "examples.json").read_text())
  won = next(e for e in examples["won"] if e["id"] == "q2")
  before, _ = won["passages"]
  assert "no thing" in before[0]["text"]
  assert [p["has_answer"] for p in before] == [False, False, True]


def test_second_call_returns_the_first_ones_work(world):
  first = run_evaluation(world)
  stamp = (world.out / "metrics.json").stat().st_mtime_ns
  second = run_evaluation(world)
  assert second.metrics == first.metrics
  assert (world.out / "metrics.json").stat().st_mtime_ns == stamp


def test_a_damaged_evaluation_is_told_of_and_made_again(world, capsys):
  run_evaluation(world)
  files = [path for path in sorted(world.out.rglob("*")) if path.is_file()]
  before = {path: path.read_bytes() for path in files}
  (world.out / "table.txt").write_text("all is well\n")
  run_evaluation(world)
  assert {path: path.read_bytes() for path in files} == before
  assert "table.txt: differs from its checksum" in capsys.readouterr().err


def test_an_edit_of_the_same_size_is_no_second_call(world):
  run_evaluation(world)
  text = world.passages.read_text()
  world.passages.write_text(text.replace("1605", "1705"))
  with pytest.raises(InputError, match="a run with another inputs"):
    run_evaluation(world)


def test_a_folder_of_passages_is_the_same_as_one_file(world):
  folder = world.root / "passages"
  folder.mkdir()
  for number, passage in enumerate(PASSAGES):
    with (folder / f"{number}.tsv").open("w") as file:
      write_passages(file, [passage])
  one = run_evaluation(world)
  many = run_evaluation(world, passages=folder, output_dir=world.root / "many")
  assert many.metrics == one.metrics


def test_same_input_same_bytes(world):
  run_evaluation(world)
  run_evaluation(world, output_dir=world.root / "again")
  for path in sorted(world.out.rglob("*")):
    if path.is_file() and path.name != "run.json":
      again = world.root / "again" / path.relative_to(world.out)
      assert again.read_bytes() == path.read_bytes(), path


def test_table(world):
  table = run_evaluation(world).table
  assert "MRR@10" in table
  assert "sentences were not split first" in table
  assert "a passage that contains an answer counts" in table
  lines = table.splitlines()
  header = lines[0].split()
  assert header[:6] == ["R@6t", "fi", "(2)", "ru", "(1)", "macro"]
  assert lines[2].split()[:4] == ["better", "100.0", "+100.0", "0.0"]


def test_file_names():
  names = ["sum 0.01", "sum/0.01", "../../x", "..", "ar+fi", "base"]
  stems = to_file_names(names)
  assert len(set(stems)) == len(names)
  assert not any("/" in stem or stem.startswith(".") for stem in stems)


# ---------------------------------------------------------------- alpha curves


@pytest.fixture
def search_folder(world):
  """Two dimensions: passages along the first, query sums along the second."""
  passages = np.array([[1, 0], [0.9, 0], [0.8, 0]], np.float32)
  sums = np.array([[[0, 0]], [[0, 1]], [[0, 4]]], np.float32)
  counts = np.array([[0], [1], [4]], np.int32)
  folder = world.root / "store"
  write_store(folder, ShardArrays(["p1", "p2", "p3"], passages, sums, counts))
  search = world.root / "search"
  search.mkdir()
  write_run(search / "run.trec", BASE)
  np.save(search / "question_embeddings.npy", np.ones((4, 2), np.float32))
  manifest = {
    "embeddings": "../store",
    "question_ids": ["q1", "q2", "q3", "q4"],
  }
  (search / "manifest.json").write_text(json.dumps(manifest))
  return search


def test_alphas_from_a_search_folder(world, search_folder):
  evaluation = run_evaluation(
    world,
    runs={"base": search_folder},
    alphas={"sum": (0.1,), "mean": (0.2,)},
    augmentations={"mine": Augmentation(reduction="mean", alpha=0.0)},
    k=2,
  )
  variants = evaluation.metrics["variants"]
  assert list(variants) == ["base", "sum 0.1", "mean 0.2", "mine"]
  assert variants["sum 0.1"]["augmentation"] == {
    "reduction": "sum",
    "alpha": 0.1,
    "languages": None,
    "num_queries": None,
  }
  runs = {
    name: read_run(world.out / "runs" / f"{stem}.trec")["q1"]
    for name, stem in zip(variants, to_file_names(list(variants)), strict=True)
  }
  # sum 0.1: 0.9 p + 0.1 S, mean 0.2: 0.8 p + 0.2 S / n, p1 as it is.
  assert runs["sum 0.1"] == pytest.approx({"p3": 1.12, "p2": 0.91})
  assert runs["mean 0.2"] == pytest.approx({"p1": 1.0, "p2": 0.92})
  assert runs["mine"] == pytest.approx({"p1": 1.0, "p2": 0.9})


def test_view_behind_a_search_folder(world, search_folder):
  augment(
    store=world.root / "store",
    output_dir=world.root / "view",
    reduction="mean",
    alpha=0.3,
  )
  note(search_folder, embeddings="../view")
  evaluation = run_evaluation(
    world, runs={"base": search_folder}, alphas=(0.2,), reduction="mean"
  )
  variants = evaluation.metrics["variants"]
  assert variants["base"]["augmentation"]["alpha"] == 0.3
  # Alphas start from the store, not from the view.
  run = read_run(world.out / "runs/mean_0.2.trec")
  assert run["q1"] == pytest.approx({"p1": 1.0, "p2": 0.92, "p3": 0.84})


def note(search_folder, **changes):
  path = search_folder / "manifest.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_alphas_from_a_store_in_a_bucket(world, search_folder):
  bucket = "memory://evaluation/store"
  opened = open_store(world.root / "store")
  (block,) = opened.blocks(10)
  vectors = block.passages, block.query_sums, block.query_counts
  write_store(bucket, ShardArrays(opened.passage_ids, *vectors))
  note(
    search_folder,
    embeddings=bucket,
    embeddings_fingerprint=opened.fingerprint,
  )
  run_evaluation(world, runs={"base": search_folder}, alphas=(0.1,), k=1)
  run = read_run(world.out / "runs/sum_0.1.trec")
  assert run["q1"] == pytest.approx({"p3": 1.12})


def test_other_embeddings_in_the_place_of_those_searched(world, search_folder):
  note(search_folder, embeddings_fingerprint="another")
  for alphas in ((), (0.1,)):
    with pytest.raises(InputError, match="not those that were searched"):
      run_evaluation(world, runs={"base": search_folder}, alphas=alphas)
  with pytest.raises(InputError, match="not those that were searched"):
    score_augmentations(search_folder, {}, k=1)
  run_evaluation(world, runs={"base": search_folder / "run.trec"})


def test_a_run_that_is_not_the_one_searched(search_folder):
  run = search_folder / "run.trec"
  note(search_folder, run=sha256_file(run))
  assert read_variant("base", search_folder).run == BASE
  run.write_text(run.read_text().replace("p3", "p2"))
  with pytest.raises(InputError, match=r"run\.trec: not the file that the man"):
    read_variant("base", search_folder)


def test_alphas_without_embeddings(world):
  with pytest.raises(InputError, match=r"base\.trec: alphas need"):
    run_evaluation(world, alphas=(0.1,))
  assert not world.out.exists()


def damage(path):
  path.write_bytes(path.read_bytes()[:-1] + b"\x01")


@pytest.mark.parametrize(
  ("harm", "message"),
  [
    (lambda path: path.unlink(), "cannot be read"),
    (lambda path: path.write_bytes(b"abc"), "cannot be read"),
    (lambda path: np.save(path, np.ones((3, 2))), "3 vectors for 4 questions"),
    (damage, "not the file that the manifest describes"),
  ],
)
def test_damaged_question_embeddings(world, search_folder, harm, message):
  path = search_folder / "question_embeddings.npy"
  note(search_folder, question_embeddings=sha256_file(path))
  harm(path)
  with pytest.raises(InputError, match=message):
    run_evaluation(world, runs={"base": search_folder}, alphas=(0.1,))
  assert not world.out.exists()


def test_plans():
  named = {"three": Augmentation(reduction="sum", alpha=0.1, num_queries=3)}
  assert plan_augmentations((), "sum", named) == named
  planned = plan_augmentations((0.1,), "mean", list(named.values()), (2, 4))
  assert list(planned) == ["mean 0.1 2q", "mean 0.1 4q", "sum 0.1 3q"]
  planned = plan_augmentations((0.1,), "mean", list(named.values()))
  assert list(planned) == ["mean 0.1", "sum 0.1 3q"]
  with pytest.raises(InputError, match="alpha is 2"):
    plan_augmentations((2,), "sum", ())


# ------------------------------------------------------------------- bad input


def test_some_of_the_questions_that_were_searched(world):
  whole = run_evaluation(world)
  with world.questions.open("w") as file:
    write_questions(file, QUESTIONS[:2])
  part = run_evaluation(world, output_dir=world.root / "part")
  for name in ("base", "better"):
    value = whole.result(name, "R@6t", "fi")["value"]
    assert part.result(name, "R@6t")["value"] == value
    assert f"{name}: results for 2 other questions, left out" in part.table


def test_runs_of_other_questions_name_the_line(world):
  write_run(world.better, {"q9": {"p1": 1.0}})
  with pytest.raises(InputError, match=r"better\.trec:1: no result for a que"):
    run_evaluation(world)
  assert not world.out.exists()


def test_judged_questions_need_no_answers_and_no_data(world):
  with world.questions.open("w") as file:
    write_questions(file, [Question(f"q{n}", "?", "fi") for n in (1, 2)])
  qrels = world.root / "qrels.txt"
  qrels.write_text("q1 0 p1 1\nq2 0 p1 0\nq2 0 p3 1\n")
  evaluation = run_evaluation(
    world, qrels=qrels, tokenizer="punkt", punkt_dir=world.root
  )
  assert evaluation.scores.measures == ("RR@10", "Success@1")
  assert "R@kt left out: no question has an answer" in evaluation.table
  with world.questions.open("a") as file:
    write_questions(file, [QUESTIONS[2]])
  mixed = run_evaluation(world, qrels=qrels, output_dir=world.root / "mixed")
  assert mixed.result("base", "R@6t")["n"] == 1
  assert "R@kt: without 2 of 3 questions" in mixed.table


def test_a_measure_under_two_names_has_one_value(world):
  qrels = world.root / "qrels.txt"
  qrels.write_text("q1 0 p1 1\nq1 0 p2 1\nq2 0 p3 1\n")
  names = ("R@100", "Recall@100", "RR", "MRR", "nDCG@3", "NDCG@3")
  result = run_evaluation(world, qrels=qrels, measures=names).result
  for first, second in zip(names[::2], names[1::2], strict=True):
    assert result("base", first) == result("base", second)
    assert result("base", first)["value"] > 0


def test_unknown_passage_names_the_line(world):
  with world.better.open("a") as file:
    file.write("q1 Q0 p9 3 0.1 x\n")
  with pytest.raises(InputError, match=r"better\.trec:8: passage 'p9'"):
    run_evaluation(world)
  assert not world.out.exists()


def test_duplicate_passage_names_the_line(world):
  with world.better.open("a") as file:
    file.write("q1 Q0 p1 3 0.1 x\n")
  with pytest.raises(InputError, match=r"better\.trec:8: .*appears twice"):
    run_evaluation(world)


def test_question_without_answers_names_the_line(world):
  with world.questions.open("a") as file:
    write_questions(file, [Question("q5", "?", "fi")])
  with pytest.raises(InputError, match=r"questions\.jsonl:5: .*no answers"):
    run_evaluation(world)


def test_duplicate_question_names_the_line(world):
  with world.questions.open("a") as file:
    write_questions(file, QUESTIONS[:1])
  with pytest.raises(InputError, match=r"questions\.jsonl:5: .*appears twice"):
    run_evaluation(world)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"runs": {}}, "no runs"),
    ({"runs": {"a": pathlib.Path("absent.trec")}}, "no such run"),
    ({"baseline": "best"}, "baseline 'best' is not among the runs"),
    ({"token_budgets": (0,)}, "token budget is 0"),
    ({"measures": ("Rubbish@1",)}, "unknown measure"),
    ({"rounds": 0}, "rounds is 0"),
    ({"num_queries": (1, 2)}, "num_queries without alphas"),
    ({"token_budgets": (), "measures": ("nDCG@5",)}, "no question can"),
    ({"passages": pathlib.Path("absent.tsv")}, "absent.tsv: no such file"),
    ({"qrels": pathlib.Path("absent.txt")}, "absent.txt: no such file"),
  ],
)
def test_bad_settings_write_nothing(world, changes, message):
  with pytest.raises(InputError, match=message):
    run_evaluation(world, **changes)
  assert not world.out.exists()


def test_only_yes_and_no(world):
  with world.questions.open("w") as file:
    write_questions(file, [Question("q1", "?", "fi", ("yes", "no"))])
  write_run(world.base, {"q1": BASE["q1"]})
  with pytest.raises(InputError, match="all answers are yes or no"):
    run_evaluation(world, runs={"base": world.base})


def test_another_evaluation_in_the_folder(world):
  run_evaluation(world)
  with pytest.raises(InputError, match="another settings"):
    run_evaluation(world, rounds=101)
  write_run(world.better, BASE)
  with pytest.raises(InputError, match="another inputs"):
    run_evaluation(world)


def test_qrels_of_other_questions(world):
  (world.root / "qrels.txt").write_text("other 0 p1 1\n")
  with pytest.raises(InputError, match="judge none of the questions"):
    run_evaluation(world, qrels=world.root / "qrels.txt")


# --------------------------------------------------------------------- pooling


def make_seed(world, number, *, shared_questions):
  """An evaluation of 30 questions in two languages, the variant mostly wins."""
  rng = np.random.default_rng(number)
  root = world.root / f"seed{number}"
  root.mkdir()
  suffix = "" if shared_questions else f" {number}"
  questions = [
    Question(f"q{i}", f"?{suffix}", ("fi", "ru")[i % 2], ("1605",))
    for i in range(30)
  ]
  with (root / "questions.jsonl").open("w") as file:
    write_questions(file, questions)
  for name, chance in (("base", 0.3), ("better", 0.8)):
    hits = rng.random(30) < chance
    run = {
      f"q{i}": {"p1": 1.0, "p3": 2.0 - 2 * hit} for i, hit in enumerate(hits)
    }
    write_run(root / f"{name}.trec", run)
  return run_evaluation(
    world,
    runs={n: root / f"{n}.trec" for n in ("base", "better")},
    questions=root / "questions.jsonl",
    output_dir=root / "out",
    rounds=2000,
  )


def test_pooled_seeds(world, capsys):
  seeds = [make_seed(world, n, shared_questions=False) for n in range(5)]
  folders = [evaluation.folder for evaluation in seeds]
  pooled = pool(evaluations=folders, output_dir=world.root / "pool")
  assert pooled.table in capsys.readouterr().out
  values = [e.result("better", "RR@10")["value"] for e in seeds]
  differences = [e.result("better", "RR@10")["difference"] for e in seeds]
  macro = pooled.result("better", "RR@10")
  assert macro["seeds"] == values
  assert macro["value"] == pytest.approx(np.mean(values))
  assert macro["sd"] == pytest.approx(np.std(values, ddof=1))
  assert macro["difference"] == pytest.approx(np.mean(differences))
  assert macro["n"] == 150
  assert macro["p"] == 1 / 10_001
  assert macro["interval"][0] > 0
  assert len(pooled.metrics["pooled"]) == 5
  assert "±" in pooled.table
  assert load_evaluation(world.root / "pool").metrics == pooled.metrics


def test_questions_shared_by_seeds_enter_once(world):
  seeds = [make_seed(world, n, shared_questions=True) for n in range(3)]
  folders = [evaluation.folder for evaluation in seeds]
  pooled = pool(evaluations=folders, output_dir=world.root / "pool")
  assert pooled.result("better", "RR@10")["n"] == 30
  mean = np.mean([e.scores.values["base"] for e in seeds], axis=0)
  np.testing.assert_allclose(pooled.scores.values["base"], mean)


def test_pooling_the_same_evaluation_twice_does_not_sharpen_it(world):
  one = make_seed(world, 0, shared_questions=True)
  pooled = pool(
    evaluations=[one.folder, one.folder],
    output_dir=world.root / "pool",
    rounds=2000,
  )
  single, double = (e.result("better", "RR@10") for e in (one, pooled))
  assert double["p"] == single["p"]
  assert double["interval"] == single["interval"]
  assert double["sd"] == 0.0


def test_pooling_refuses_what_is_not_alike(world):
  first = run_evaluation(world)
  other = run_evaluation(
    world, output_dir=world.root / "other", measures=("RR@5",)
  )
  with pytest.raises(InputError, match="not the same measures"):
    pool(
      evaluations=[first.folder, other.folder], output_dir=world.root / "pool"
    )
  with pytest.raises(InputError, match="no evaluations"):
    pool(evaluations=[], output_dir=world.root / "pool")
  with pytest.raises(InputError, match="no finished evaluation"):
    pool(evaluations=[world.root], output_dir=world.root / "pool")
  assert not (world.root / "pool").exists()


# ------------------------------------------------------------------- real data


@pytest.mark.slow
def test_official_protocol_on_real_questions(world, shared_dir):
  """Macro averages equal a plain re-implementation over prediction files."""
  import random

  from xqg_jax.data.passages import read_passages
  from xqg_jax.data.questions import read_questions
  from xqg_jax.evaluation.word_tokens import load_word_tokenizer

  path = shared_dir / "data/xor_tydi/xor_dev_retrieve_eng_span_v1_1.jsonl"
  questions = read_questions(path)
  corpus = shared_dir / "data/xquad_xor/corpus.tsv"
  ids = [passage.passage_id for passage in read_passages(corpus)]
  rng = random.Random(1)
  run = {
    q.question_id: {p: -float(n) for n, p in enumerate(rng.sample(ids, 60))}
    for q in questions
  }
  write_run(world.base, run)
  evaluation = run_evaluation(
    world,
    runs={"base": world.base},
    questions=path,
    passages=corpus,
    token_budgets=(2000, 5000),
    measures=(),
  )
  tokenize = load_word_tokenizer("no_sentences")
  answers = {q.question_id: q.answers for q in questions}
  predictions = json.loads((world.out / "predictions/base.json").read_text())
  texts = {text for item in predictions for text in item["ctxs"]}
  tokens = {text: tokenize(text) for text in texts}
  for name, budget in (("R@2kt", 2000), ("R@5kt", 5000)):
    hits: dict[str, list[bool]] = {}
    for item in predictions:
      wanted = [a for a in answers[item["id"]] if a not in ("yes", "no")]
      if not wanted:
        continue
      found = [t for text in item["ctxs"] for t in tokens[text]][:budget]
      kept = " ".join(found)
      hits.setdefault(item["lang"], []).append(any(a in kept for a in wanted))
    for language, found in hits.items():
      entry = evaluation.result("base", name, language)
      assert entry["value"] == 100 * (sum(found) / len(found))
      assert entry["n"] == len(found)
    by_language = [100 * sum(found) / len(found) for found in hits.values()]
    macro = evaluation.result("base", name)["value"]
    assert macro == pytest.approx(sum(by_language) / 7, abs=1e-9)
    assert {c: len(f) for c, f in hits.items()} == {
      "ar": 309,
      "bn": 304,
      "fi": 314,
      "ja": 241,
      "ko": 285,
      "ru": 237,
      "te": 238,
    }
