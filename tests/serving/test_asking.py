"""`xqg search --query`: what it prints, at any width, and what it refuses."""

import json

import numpy as np
import pytest

from tests.helpers.tiny_dual_encoder import make_texts, write_checkpoint
from xqg_jax.augmentation.views import open_view
from xqg_jax.checkpoints import load_dual_encoder
from xqg_jax.cli import main
from xqg_jax.data.passage_lookup import ShownPassage
from xqg_jax.data.passages import Passage
from xqg_jax.encoding.texts import encode_texts
from xqg_jax.serving import terminal
from xqg_jax.serving.products import Hit
from xqg_jax.serving.question_encoder import QuestionEncoder
from xqg_jax.serving.terminal import format_variants
from xqg_jax.stages.augment import augment
from xqg_jax.stages.encode import encode
from xqg_jax.stages.index import build_index

pytestmark = pytest.mark.usefixtures("quick_compiler")

NUM_PASSAGES = 12


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  root = tmp_path_factory.mktemp("world")
  texts = make_texts(NUM_PASSAGES, longest=12)
  queries = make_texts(NUM_PASSAGES, longest=5, seed=1)
  with (
    open(root / "passages.tsv", "w") as passages,
    open(root / "queries.jsonl", "w") as file,
  ):
    for i in range(NUM_PASSAGES):
      passages.write(f"p{i}\t{texts[i]}\tTown {i}\n")
      row = {"docid": f"p{i}", "generated_queries": {"fi": [queries[i]]}}
      file.write(json.dumps(row) + "\n")
  write_checkpoint(root / "encoder")
  encode(
    checkpoint_path=root / "encoder",
    passages=root / "passages.tsv",
    generated_queries=root / "queries.jsonl",
    output_dir=root / "store",
  )
  augment(store=root / "store", output_dir=root / "view", alpha=0.4)
  build_index(embeddings=root / "view", output_dir=root / "index")
  return root


def _main(world, query, **changes):
  values = {
    "INDEX": world / "index",
    "CHECKPOINT_PATH": world / "encoder",
    "PASSAGES": world / "passages.tsv",
    **changes,
  }
  flags = [f"--gin.{name}={value}" for name, value in values.items()]
  return main.main(["search", "--query", query, *flags])


def _best(world, question, vectors):
  model = load_dual_encoder(world / "encoder")
  (query,) = encode_texts(
    model, [model.format_query(question)], side="query", max_length=24
  )
  scores = vectors @ query
  rows = np.argsort(-scores, kind="stable")[:3]
  return [(f"Town {row}", scores[row]) for row in rows]


def _printed(column):
  """(title, score) of lines such as ` 1. 0.9000  Town 3`."""
  words = [line.split() for line in column if line[:2].strip().isdigit()]
  return [(" ".join(line[2:]), float(line[1])) for line in words]


def test_one_question_waits_for_no_other_length(world, capsys, monkeypatch):
  monkeypatch.setattr(
    QuestionEncoder, "warm_up", lambda self: pytest.fail("compiles all")
  )
  assert _main(world, "red river?") == 0
  assert "Town" in capsys.readouterr().out


def test_both_variants_stand_side_by_side(world, capsys, monkeypatch):
  monkeypatch.setenv("COLUMNS", "100")
  before = sorted(path.name for path in world.iterdir())
  question = "[1] king's river"  # would be a list in gin
  assert _main(world, question, K=3) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[0].split() == "baseline augmented, sum, alpha 0.4".split()
  assert all(len(line) <= 100 for line in lines)
  for name, part in (("store", slice(0, 48)), ("view", slice(51, None))):
    ((_, vectors),) = open_view(world / name).blocks(NUM_PASSAGES)
    expected = _best(world, question, vectors)
    found = _printed([line[part] for line in lines])
    assert [title for title, _ in found] == [title for title, _ in expected]
    np.testing.assert_allclose(
      [score for _, score in found], [s for _, s in expected], atol=6e-5
    )
  assert sorted(path.name for path in world.iterdir()) == before


@pytest.mark.parametrize(
  ("query", "changes", "words"),
  [
    ("", {}, "the question is empty"),
    ("x" * 1_000_000, {}, "the question has 1,000,000 characters"),
    ("x\udc80", {}, "not valid Unicode"),
    ("x", {"K": 0}, "K: is 0"),
    ("x", {"ALPHA": 1.5}, "is 1.5"),
    ("x", {"QUESTIONS": "q.jsonl"}, "unknown name QUESTIONS"),
    ("x", {"INDEX": "absent"}, "no finished index here"),
  ],
  ids=range(7),
)
def test_bad_input_is_told_in_one_line(world, query, changes, words, capsys):
  assert _main(world, query, **changes) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("xqg: error:")
  assert words in line


def test_query_belongs_to_search(capsys):
  assert main.main(["index", "--query", "x"]) == 2
  assert "`xqg index` takes no --query" in capsys.readouterr().err


def _hits(*rows):
  return [Hit(row, 1.0 - row / 10, 0.0, 0.0) for row in rows]


SHOWN = {
  "a": ShownPassage(Passage("a", "word " * 40, "東京タワー" * 9), {}),
  "b": ShownPassage(Passage("b", "\x1b[2Jred \u202eking", ""), {}),
}


def test_narrow_terminals_have_one_variant_after_the_other():
  found = {"baseline": _hits(0, 1), "augmented": _hits(1)}
  lines = list(format_variants(found, ["a", "b"], SHOWN, width=30))
  assert lines == [
    "baseline",
    "",
    " 1. 1.0000  東京タワー東京タ…",
    "    word word word word word",
    "    word word word word word …",
    "",
    " 2. 0.9000  b",
    "    [2Jred king",
    "",
    "augmented",
    "",
    " 1. 0.9000  b",
    "    [2Jred king",
    "",
  ]


def test_wide_characters_keep_the_columns_in_line():
  found = {"baseline": _hits(0), "augmented": _hits(1)}
  lines = list(format_variants(found, ["a", "b"], SHOWN, width=80))
  title = lines[2].index(" 1. 0.9")
  wide = sum(terminal._columns_of(c) for c in lines[2][:title])
  assert wide == lines[0].index("augmented") == lines[3].index("    [2J") == 41
