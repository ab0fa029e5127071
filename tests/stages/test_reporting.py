"""Tests of the report: complete, self-contained, and safely escaped."""

import html.parser
import json
import re
import shutil

import pytest

from xqg_jax.data.generated_queries import write_generated_queries
from xqg_jax.data.passages import Passage, write_passages
from xqg_jax.data.questions import Question, write_questions
from xqg_jax.data.runs import write_run
from xqg_jax.errors import InputError
from xqg_jax.evaluation.report import plots
from xqg_jax.evaluation.report.page import _choose_bars, highlight
from xqg_jax.io.claims import lock_folder
from xqg_jax.io.files import sha256_file
from xqg_jax.stages.evaluate import evaluate
from xqg_jax.stages.pool import pool
from xqg_jax.stages.report import report

EVIL = "<script>alert('x')</script><img src=x onerror=alert(1)>"
VOID = {"meta", "link", "img", "br", "hr", "input", "path", "use"}


class Page(html.parser.HTMLParser):
  """Collects tags, attributes and text."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.attributes, self.open, self.unbalanced = [], [], [], []
    self.feed(text)
    self.close()

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.attributes += [(tag, name, value or "") for name, value in attrs]
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.tags.append(tag)
    self.attributes += [(tag, name, value or "") for name, value in attrs]

  def handle_endtag(self, tag):
    if tag in VOID:
      return
    if not self.open or self.open.pop() != tag:
      self.unbalanced.append(tag)


@pytest.fixture
def world(tmp_path):
  passages = [
    Passage("p1", f"Founded in 1605 {EVIL} .", f"Oulu {EVIL}"),
    Passage("p2", "Nothing is known .", "It"),
  ]
  questions = [
    Question("q1", f"متى {EVIL} تأسست؟", "ar", ("1605",)),
    Question("q2", "Milloin?", "fi", ("1605", EVIL)),
  ]
  with (tmp_path / "passages.tsv").open("w") as file:
    write_passages(file, passages)
  with (tmp_path / "questions.jsonl").open("w") as file:
    write_questions(file, questions)
  with (tmp_path / "queries.jsonl").open("w") as file:
    write_generated_queries(
      file, passages[0], {"ar": ["متى؟", f"q {EVIL}"], "fi": []}
    )
  write_run(tmp_path / "base.trec", {"q1": {"p2": 1.0}, "q2": {"p1": 1.0}})
  write_run(tmp_path / "mine.trec", {"q1": {"p1": 1.0}, "q2": {"p2": 1.0}})
  return tmp_path


def run_evaluation(world, name="evaluation", seed=0, questions=None):
  return evaluate(
    runs={
      "base": world / "base.trec",
      f"mine {EVIL} $x_1$": world / "mine.trec",
    },
    questions=questions or world / "questions.jsonl",
    passages=world / "passages.tsv",
    output_dir=world / name,
    tokenizer="no_sentences",
    rounds=100,
    seed=seed,
  )


def make_report(world, **changes):
  arguments = {
    "evaluations": [run_evaluation(world).folder],
    "output_dir": world / "report",
    "generated_queries": world / "queries.jsonl",
    "title": f"Results {EVIL}",
  }
  return report(**{**arguments, **changes}).read_text()


def test_markup_in_the_data_stays_text(world):
  page = Page(make_report(world))
  assert "script" not in page.tags
  assert "img" not in page.tags
  assert not [a for a in page.attributes if a[1].startswith("on")]


def test_tags_are_balanced(world):
  page = Page(make_report(world))
  assert page.unbalanced == []
  assert page.open == []


def test_nothing_is_loaded(world):
  text = make_report(world)
  page = Page(text)
  loading = {"src", "srcset", "href", "xlink:href", "data", "action", "poster"}
  for tag, name, value in page.attributes:
    if name in loading:
      assert value.startswith("#"), (tag, name, value)
  assert not {"link", "iframe", "object", "embed", "base"} & set(page.tags)
  assert not re.search(r"@import|url\((?!#)", text)
  assert "http" not in text


def test_ids_are_unique_and_references_resolve(world):
  page = Page(make_report(world))
  ids = [value for _, name, value in page.attributes if name == "id"]
  assert len(ids) == len(set(ids))
  for _, name, value in page.attributes:
    if name in ("href", "xlink:href"):
      assert value[1:] in ids


def test_content(world):
  text = make_report(world)
  assert '<b dir="auto">Oulu &lt;script&gt;' in text
  assert "Founded in <mark>1605</mark> &lt;script&gt;" in text
  assert 'dir="auto" lang="ar">متى &lt;script&gt;' in text
  assert '<li dir="auto" lang="ar">متى؟</li>' in text
  near = '<span class="tag">nearest query</span> <span dir="auto" lang="ar">'
  assert text.count(near) == 1  # beside what the variant found
  assert "Questions won" in text
  assert "MRR@10" in text
  assert "prefers-color-scheme: dark" in text
  assert "sentences were not split first" in text


def test_same_input_same_bytes(world):
  evaluation = run_evaluation(world).folder
  first = make_report(world, evaluations=[evaluation])
  second = make_report(
    world, evaluations=[evaluation], output_dir=world / "again"
  )
  assert first == second


def test_loss_curves_configs_and_fingerprints(world):
  model_dir = world / "model"
  model_dir.mkdir()
  rows = [{"step": n, "loss": 5.0 / n, "rate": 1.0} for n in range(1, 200)]
  (model_dir / "metrics.jsonl").write_text(
    "".join(json.dumps(row) + "\n" for row in rows)
  )
  (model_dir / "operative_config.gin").write_text("BATCH_SIZE = '<b>'\n")
  (model_dir / "run.json").write_text('{"stage": "train", "arguments": {}}')
  (model_dir / "manifest.json").write_text('{"params": {"sha256": "abc123"}}')
  text = make_report(world, model_dirs=[model_dir])
  assert "loss over training steps" in text
  assert "BATCH_SIZE = &#39;&lt;b&gt;&#39;" in text
  assert f"xqg train --gin_file={model_dir}/operative_config.gin" in text
  assert "abc123" in text
  assert "questions · sha256" in text


def test_configs_follow_the_road_and_name_every_command(world):
  for stage, folder in (("generate", "queries"), ("prepare", "collection")):
    (world / folder).mkdir()
    config = world / folder / "operative_config.gin"
    config.write_text(f"OUTPUT_DIR = '{folder}'\n")
    (world / folder / "run.json").write_text(
      json.dumps({"stage": stage, "arguments": {}})
    )
  questions = world / "collection/questions.jsonl"
  shutil.copy(world / "queries.jsonl", world / "queries")
  sha256 = sha256_file(world / "queries.jsonl")
  shards = {"shards": [{"name": "queries.jsonl", "sha256": sha256}]}
  (world / "queries" / "manifest.json").write_text(json.dumps(shards))
  shutil.copy(world / "questions.jsonl", questions)
  folder = run_evaluation(world, "scores", questions=questions).folder
  text = make_report(
    world, evaluations=[folder], generated_queries=world / "queries"
  )
  shown = re.findall(r"<summary>(\w+) <span class=\"quiet mono", text)
  assert shown == ["prepare", "generate", "evaluate"]
  assert f"xqg generate --gin_file={world}/queries/operative_config" in text


def test_bars_leave_out_what_is_another_run_again(world):
  metrics = make_metrics([("sum", 0.1, None), ("sum", 0.1, None)])
  metrics["variants"]["v2"] = metrics["variants"]["v0"] | {"augmentation": None}
  assert _choose_bars(metrics, "RR@10") == ["base", "v0", "v2"]


def test_pooled_evaluation_beside_a_single_one(world):
  folders = [run_evaluation(world, f"seed{n}", n).folder for n in range(2)]
  pooled = pool(evaluations=folders, output_dir=world / "pooled")
  text = make_report(world, evaluations=[pooled.folder, folders[0]])
  assert "±0.0" in text
  assert text.count('<table class="stacked">') == 4  # one a measure
  assert "Means over 2 evaluations" in text
  assert text.count("Questions won") == 2
  page = Page(text)
  assert page.unbalanced == []
  ids = [value for _, name, value in page.attributes if name == "id"]
  assert {"evaluation-1", "evaluation-2"} <= set(ids)


def test_one_run_alone(world):
  evaluation = evaluate(
    runs={"base": world / "base.trec"},
    questions=world / "questions.jsonl",
    passages=world / "passages.tsv",
    output_dir=world / "alone",
    tokenizer="no_sentences",
  )
  text = make_report(world, evaluations=[evaluation.folder])
  assert "Questions won" not in text
  assert Page(text).unbalanced == []


def test_no_evaluation(world):
  with pytest.raises(InputError, match="no evaluations"):
    report(evaluations=[], output_dir=world / "report")
  with pytest.raises(InputError, match="no finished evaluation"):
    report(evaluations=[world], output_dir=world / "report")
  assert not (world / "report").exists()


@pytest.mark.parametrize(
  ("text", "answers", "expected"),
  [
    ("a < b", [], "a &lt; b"),
    ("In 1605 & 16055", ["1605"], "In <mark>1605</mark> &amp; 16055"),
    ("new york city", ["York", "New York"], "<mark>new york</mark> city"),
    ("a (b) c", ["(b)"], "a <mark>(b)</mark> c"),
    ("anything", [" "], "anything"),
  ],
)
def test_highlight(text, answers, expected):
  assert highlight(text, answers) == expected


# ----------------------------------------------------------------------- plots


def make_metrics(augmentations):
  def describe(value, augmentation):
    entry = {"value": value, "n": 9, "interval": [-1.0, 1.0], "p": 0.5}
    measures = {"RR@10": {"macro": entry, "languages": {"fi": entry}}}
    return {"augmentation": augmentation, "measures": measures}

  variants = {"base": describe(50.0, None)}
  for number, (reduction, alpha, num_queries) in enumerate(augmentations):
    variants[f"v{number}"] = describe(
      51.0 + number,
      {
        "reduction": reduction,
        "alpha": alpha,
        "languages": None,
        "num_queries": num_queries,
      },
    )
  return {
    "baseline": "base",
    "measures": [{"name": "RR@10", "label": "MRR@10"}],
    "variants": variants,
  }


def test_alpha_curve_needs_two_alphas():
  one = make_metrics([("sum", 0.1, None)])
  assert plots.plot_alphas(one, "RR@10") is None
  two = make_metrics([("sum", 0.1, None), ("sum", 0.2, None)])
  svg = plots.plot_alphas(two, "RR@10")
  assert ">0.1</text>" in svg
  assert ">0.2</text>" in svg
  assert plots.plot_num_queries(two, "RR@10") is None


def test_num_queries_curve():
  metrics = make_metrics([("mean", 0.2, n) for n in (1, 3, 5)])
  svg = plots.plot_num_queries(metrics, "RR@10")
  for text in (">1</text>", ">3</text>", ">5</text>", "mean 0.2"):
    assert text in svg
  assert plots.plot_alphas(metrics, "RR@10") is None


def test_colours_come_from_the_page():
  metrics = make_metrics([("sum", 0.1, None), ("sum", 0.2, None)])
  for svg in (
    plots.plot_alphas(metrics, "RR@10"),
    plots.plot_languages(metrics, "RR@10", ["base", "v0"]),
    plots.plot_losses([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]),
  ):
    assert not re.findall(r"#[0-9a-f]{6}\b", svg)
    assert "fill: currentColor" in svg
    assert "var(--series-1)" in svg
    assert "http" not in svg
    assert "<style" not in svg


def test_losses_without_rows():
  assert plots.plot_losses([]) is None
  assert plots.plot_losses([{"step": 1, "rate": 2.0}]) is None


def test_two_reports_into_one_folder(world):
  make_report(world)
  with (
    lock_folder(world / "report"),
    pytest.raises(InputError, match="another process is writing"),
  ):
    make_report(world)
