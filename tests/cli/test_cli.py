"""The command line as its users meet it: the road, and bad input."""

import json

import pytest

from tests.helpers.tiny_dual_encoder import write_checkpoint
from xqg_jax import stages
from xqg_jax.cli import config, main


def _flags(**values):
  return [f"--gin.{name}={value}" for name, value in values.items()]


def _write(path, *rows):
  lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
  path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
  return path


def _question(number, **changes):
  return {
    "id": f"q{number}",
    "question": f"red river {number}?",
    "lang": "ru",
    "answers": [f"lake {number}"],
    **changes,
  }


@pytest.fixture(scope="module")
def road(tmp_path_factory):
  """A folder in which every stage after training has run once."""
  root = tmp_path_factory.mktemp("road")
  write_checkpoint(root / "encoder")
  write_checkpoint(root / "other", seed=1)
  rows = [
    f"{i}\tblue river lake {i} of the old town\tTown {i}" for i in range(6)
  ]
  _write(root / "passages.tsv", *rows)
  _write(root / "dev.jsonl", *(_question(i) for i in range(4)))
  queries = [
    {"docid": str(i), "generated_queries": {"ru": [f"river {i}"]}}
    for i in range(6)
  ]
  _write(root / "queries.jsonl", *queries)
  commands = [
    ("encode", _encode(root)),
    ("augment", _flags(STORE=root / "store", OUTPUT_DIR=root / "view")),
    ("index", _index(root, "base", "store")),
    ("index", _index(root, "augmented", "view")),
    ("search", _search(root, "base")),
    ("search", _search(root, "augmented")),
    ("evaluate", _evaluate(root)),
    (
      "report",
      _flags(EVALUATIONS=f"['{root}/evaluation']", OUTPUT_DIR=root / "report"),
    ),
  ]
  for stage, flags in commands:
    assert main.main([stage, *flags]) == 0, stage
  return root


def _encode(root, **changes):
  values = {
    "CHECKPOINT_PATH": root / "encoder",
    "PASSAGES": root / "passages.tsv",
    "GENERATED_QUERIES": root / "queries.jsonl",
    "OUTPUT_DIR": root / "store",
  }
  return _flags(**{**values, **changes})


def _index(root, name, embeddings):
  return _flags(
    EMBEDDINGS=root / embeddings,
    OUTPUT_DIR=root / f"index_{name}",
    INDEX_KIND="exact",
  )


def _search(root, name, **changes):
  values = {
    "INDEX": root / f"index_{name}",
    "QUESTIONS": root / "dev.jsonl",
    "CHECKPOINT_PATH": root / "encoder",
    "OUTPUT_DIR": root / f"search_{name}",
  }
  return _flags(**{**values, **changes})


def _evaluate(root, **changes):
  runs = {n: str(root / f"search_{n}") for n in ("base", "augmented")}
  values = {
    "RUNS": runs,
    "QUESTIONS": root / "dev.jsonl",
    "PASSAGES": root / "passages.tsv",
    "TOKENIZER": "no_sentences",
    "TOKEN_BUDGETS": "(8, 20)",
    "ALPHAS": "(0.1, 0.5)",
    "OUTPUT_DIR": root / "evaluation",
  }
  return _flags(**{**values, **changes})


def _fail(capsys, stage, flags):
  capsys.readouterr()
  assert main.main([stage, *flags]) == 2
  lines = [
    line
    for line in capsys.readouterr().err.splitlines()
    if line.startswith("xqg: error:")
  ]
  assert len(lines) == 1
  return lines[0]


def test_every_stage_keeps_its_operative_config(road):
  for folder in ("store", "view", "index_base", "search_base", "evaluation"):
    text = (road / folder / config.OPERATIVE_CONFIG).read_text()
    assert "output_dir" in text
  assert (
    "alpha = %ALPHA" in (road / "view" / config.OPERATIVE_CONFIG).read_text()
  )
  assert (road / "report" / "report.html").stat().st_size > 10_000


def test_evaluation_has_the_runs_and_the_curve(road):
  metrics = json.loads((road / "evaluation" / "metrics.json").read_text())
  names = list(metrics["variants"])
  assert names[:2] == ["base", "augmented"]
  assert len(names) == 4
  predictions = json.loads(
    (road / "evaluation" / "predictions" / "base.json").read_text()
  )
  assert {p["id"] for p in predictions} == {"q0", "q1", "q2", "q3"}


def test_a_finished_stage_is_not_run_again(road):
  before = (road / "store" / "manifest.json").stat().st_mtime_ns
  assert main.main(["encode", *_encode(road)]) == 0
  assert (road / "store" / "manifest.json").stat().st_mtime_ns == before


BAD_PASSAGES = [
  ([], "no passages in it"),
  (["a\tb\tc\td"], "p.tsv:1: found 4 tab-separated fields, expected 3"),
  (["0\tx\ty", "0\tz\ty"], "p.tsv:2: passage id '0' appears twice"),
  (["0\t\ty"], "p.tsv:1: passage '0' has an empty text"),
]


@pytest.mark.parametrize(("rows", "message"), BAD_PASSAGES)
def test_bad_passages(road, tmp_path, capsys, rows, message):
  path = _write(tmp_path / "p.tsv", *rows)
  flags = _encode(road, PASSAGES=path, OUTPUT_DIR=tmp_path / "out")
  assert message in _fail(capsys, "encode", flags)
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
  ("row", "message"),
  [
    (
      {"docid": "nobody", "generated_queries": {"ru": ["x"]}},
      "g.jsonl:1:",
    ),
    ({"docid": "0", "generated_queries": {"xx": ["x"]}}, "language 'xx'"),
    ({"docid": "0"}, "g.jsonl:1: the field 'generated_queries' is missing"),
    ("{", "g.jsonl:1: not valid JSON"),
  ],
)
def test_bad_generated_queries(road, tmp_path, capsys, row, message):
  path = _write(tmp_path / "g.jsonl", row)
  flags = _encode(road, GENERATED_QUERIES=path, OUTPUT_DIR=tmp_path / "out")
  assert message in _fail(capsys, "encode", flags)
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
  ("stage", "row", "message"),
  [
    ("search", _question(0, lang="xx"), "d.jsonl:1: unknown language 'xx'"),
    ("search", "{", "d.jsonl:1: not valid JSON"),
    ("evaluate", _question(0, answers=[]), "d.jsonl:1: question 'q0' has no"),
  ],
)
def test_bad_questions(road, tmp_path, capsys, stage, row, message):
  path = _write(tmp_path / "d.jsonl", row)
  changes = {"QUESTIONS": path, "OUTPUT_DIR": tmp_path / "out"}
  flags = (
    _search(road, "base", **changes)
    if stage == "search"
    else _evaluate(road, **changes)
  )
  assert message in _fail(capsys, stage, flags)
  assert not (tmp_path / "out").exists()


def test_missing_files_are_named(road, tmp_path, capsys):
  gone, out = tmp_path / "gone", tmp_path / "out"
  for stage, flags in (
    ("encode", _encode(road, PASSAGES=f"{gone}.tsv", OUTPUT_DIR=out)),
    ("encode", _encode(road, GENERATED_QUERIES=gone, OUTPUT_DIR=out)),
    ("search", _search(road, "base", QUESTIONS=gone, OUTPUT_DIR=out)),
    ("search", _search(road, "base", INDEX=gone, OUTPUT_DIR=out)),
    ("augment", _flags(STORE=gone, OUTPUT_DIR=out)),
    ("index", _flags(EMBEDDINGS=gone, OUTPUT_DIR=out)),
    ("evaluate", _evaluate(road, RUNS=f"{{'a': '{gone}'}}", OUTPUT_DIR=out)),
    ("report", _flags(EVALUATIONS=f"['{gone}']", OUTPUT_DIR=out)),
  ):
    assert "gone" in _fail(capsys, stage, flags), stage
    assert not out.exists()


def test_vectors_of_another_encoder(road, tmp_path, capsys):
  changes = {
    "CHECKPOINT_PATH": road / "other",
    "OUTPUT_DIR": tmp_path / "out",
  }
  message = _fail(capsys, "search", _search(road, "base", **changes))
  assert "another encoder" in message
  assert not (tmp_path / "out").exists()


def test_output_folder_that_holds_another_run(road, capsys):
  flags = _flags(STORE=road / "store", OUTPUT_DIR=road / "view", ALPHA=0.3)
  assert "another alpha" in _fail(capsys, "augment", flags)
  flags = _flags(STORE=road / "store", OUTPUT_DIR=road / "store")
  assert "run of `encode`" in _fail(capsys, "augment", flags)


def test_names_that_gin_does_not_know(tmp_path, capsys):
  out = tmp_path / "out"
  flags = _flags(STOER="x", OUTPUT_DIR=out)
  assert "did you mean STORE?" in _fail(capsys, "augment", flags)
  flags = _flags(OUTPUT_DIR=out)
  assert "STORE is not set" in _fail(capsys, "augment", flags)
  flags = [*_flags(STORE="x", OUTPUT_DIR=out), "--gin.augmentation.augment.a=1"]
  assert "augment" in _fail(capsys, "augment", flags)
  assert "unknown argument '--store=x'" in _fail(
    capsys, "augment", ["--store=x"]
  )
  gin_file = _write(tmp_path / "my.gin", "ALPHA = 0.1", "ALPAH = 0.2")
  flags = [*_flags(STORE="x", OUTPUT_DIR=out), f"--gin_file={gin_file}"]
  message = _fail(capsys, "augment", flags)
  assert "my.gin:2: unknown name ALPAH; did you mean ALPHA?" in message
  flags = [*_flags(STORE="x", OUTPUT_DIR=out), "--gin_file=nowhere.gin"]
  assert "nowhere.gin: no such gin file" in _fail(capsys, "augment", flags)
  assert not out.exists()


def test_gin_files_are_found_in_the_search_paths(road, tmp_path):
  _write(tmp_path / "mine.gin", "ALPHA = 0.4")
  flags = [
    *_flags(STORE=road / "store", OUTPUT_DIR=tmp_path / "view"),
    "--gin_file=mine.gin",
    f"--gin_search_paths={tmp_path}",
  ]
  assert main.main(["augment", *flags]) == 0
  view = json.loads((tmp_path / "view" / "view.json").read_text())
  assert view["augmentation"]["alpha"] == 0.4


@pytest.mark.parametrize("stage", stages.STAGES)
def test_help_teaches(stage, capsys):
  assert main.main([stage, "--help"]) == 0
  text = capsys.readouterr().out
  assert "Required to be set" in text
  assert f"xqg {stage}" in text
  assert "Args:" in text


def test_bare_command_lists_the_stages(capsys):
  with pytest.raises(SystemExit) as end:
    main.main([])
  assert end.value.code == 0
  text = capsys.readouterr().out
  assert all(f"  {stage}" in text for stage in stages.STAGES)
