"""The stage `search`: runs, question vectors, other encoders."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from xqg_jax.checkpoints import load_dual_encoder, save_model_files, save_params
from xqg_jax.data.passages import Passage, write_passages
from xqg_jax.data.questions import Question, read_questions, write_questions
from xqg_jax.data.runs import make_run, read_run
from xqg_jax.encoding.texts import encode_texts
from xqg_jax.errors import InputError
from xqg_jax.io.files import read_json, sha256_file
from xqg_jax.models.bert.config import BertConfig
from xqg_jax.models.bert.encoder import BertEncoder
from xqg_jax.models.dual_encoder.config import DualEncoderConfig
from xqg_jax.models.parameters import init_params
from xqg_jax.stages.augment import augment
from xqg_jax.stages.encode import encode
from xqg_jax.stages.index import build_index
from xqg_jax.stages.search import search
from xqg_jax.store.store import open_store
from xqg_jax.text.tokenizer_training import train_tokenizer

WORDS = "river castle king bridge winter north music train stone garden".split()


def _texts(count, seed):
  rng = np.random.default_rng(seed)
  return [" ".join(rng.choice(WORDS, 6)) + f" {i}" for i in range(count)]


def _write_checkpoint(folder, change=lambda params: params):
  tokenizer = train_tokenizer(_texts(200, 0), vocab_size=300, style="bert")
  config = BertConfig(
    vocab_size=tokenizer.vocab_size,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=64,
    initializer_range=0.3,
  )
  save_model_files(
    folder,
    model_config_hf=config.to_hf(),
    tokenizer=tokenizer,
    dual_encoder_config=DualEncoderConfig(
      pooling="mean",
      normalize=True,
      query_prefix="query: ",
      query_length=16,
      passage_length=24,
    ),
  )
  params = init_params(BertEncoder(config), jax.random.key(0))
  save_params(folder, 1, change({"encoder": params}))
  return folder


@dataclasses.dataclass(frozen=True)
class World:
  root: object
  checkpoint: object
  questions: object
  store: object
  index: object


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  root = tmp_path_factory.mktemp("world")
  texts = _texts(260, 1)
  with open(root / "passages.tsv", "w") as file:
    write_passages(file, [Passage(f"p{i}", t) for i, t in enumerate(texts)])
  with open(root / "queries.jsonl", "w") as file:
    for i, text in enumerate(texts):
      queries = {"ar": [f"{text} why"], "fi": [text]}
      row = {"docid": f"p{i}", "generated_queries": queries}
      file.write(json.dumps(row) + "\n")
  with open(root / "questions.jsonl", "w") as file:
    languages = ("ar", "ja", "ru")
    write_questions(
      file,
      [
        Question(f"q{i}", text, languages[i % 3], ("x",))
        for i, text in enumerate(_texts(12, 2))
      ],
    )
  checkpoint = _write_checkpoint(root / "model")
  encode(
    checkpoint_path=checkpoint,
    passages=root / "passages.tsv",
    generated_queries=root / "queries.jsonl",
    output_dir=root / "store",
  )
  build_index(embeddings=root / "store", output_dir=root / "index", k=20)
  return World(
    root,
    checkpoint,
    root / "questions.jsonl",
    root / "store",
    root / "index",
  )


def _search(world, output_dir, **arguments):
  return search(
    **{
      "index": world.index,
      "questions": world.questions,
      "checkpoint_path": world.checkpoint,
      "output_dir": output_dir,
      "k": 20,
      **arguments,
    }
  )


def _expected(world, embeddings, k):
  """Brute force over the passages encoded one way only: as texts."""
  model = load_dual_encoder(world.checkpoint)
  passages = encode_texts(
    model,
    [model.format_passage(Passage("", t)) for t in _texts(260, 1)],
    side="passage",
    max_length=24,
  )
  scores = embeddings @ passages.T
  return np.argsort(-scores, axis=1, kind="stable")[:, :k], scores


def test_search_writes_the_run_and_the_question_embeddings(world, capsys):
  folder = _search(world, world.root / "found")
  embeddings = np.load(folder / "question_embeddings.npy", allow_pickle=False)
  model = load_dual_encoder(world.checkpoint)
  questions = read_questions(world.questions)
  expected = encode_texts(
    model,
    ["query: " + q.question for q in questions],
    side="query",
    max_length=16,
  )
  np.testing.assert_array_equal(embeddings, expected)
  rows, scores = _expected(world, embeddings, 20)
  run = read_run(folder / "run.trec")
  assert list(run) == [f"q{i}" for i in range(12)]
  found = [
    len({f"p{row}" for row in rows[i]} & set(run[f"q{i}"])) for i in range(12)
  ]
  assert sum(found) >= 0.95 * 12 * 20
  for i in range(12):
    for passage_id, score in run[f"q{i}"].items():
      assert score == pytest.approx(scores[i, int(passage_id[1:])], abs=1e-5)
  assert "12 questions: encoded" in capsys.readouterr().err


def test_manifest_tells_where_everything_came_from(world):
  folder = _search(world, world.root / "found")
  manifest = read_json(folder / "manifest.json")
  assert manifest["index"] == "../index"
  assert manifest["embeddings"] == "../store"
  fingerprint = open_store(world.store).fingerprint
  assert manifest["embeddings_fingerprint"] == fingerprint
  assert manifest["index_kind"] == "scann"
  assert manifest["question_ids"] == [f"q{i}" for i in range(12)]
  assert manifest["languages"] == ["ar", "ja", "ru"] * 4
  model = load_dual_encoder(world.checkpoint)
  assert manifest["encoder_fingerprint"] == model.fingerprint
  assert manifest["run"] == sha256_file(folder / "run.trec")


def test_exact_search_of_a_view_equals_brute_force(world, tmp_path):
  augment(
    store=world.store, output_dir=tmp_path / "view", reduction="sum", alpha=0.0
  )
  build_index(
    embeddings=tmp_path / "view", output_dir=tmp_path / "index", kind="exact"
  )
  folder = _search(world, tmp_path / "found", index=tmp_path / "index")
  embeddings = np.load(folder / "question_embeddings.npy", allow_pickle=False)
  rows, scores = _expected(world, embeddings, 20)
  run = read_run(folder / "run.trec")
  for i in range(12):
    assert list(run[f"q{i}"]) == [f"p{row}" for row in rows[i]]
    np.testing.assert_allclose(
      list(run[f"q{i}"].values()), scores[i, rows[i]], atol=1e-5
    )


def test_k_above_the_corpus_gives_every_passage(world, tmp_path):
  build_index(
    embeddings=world.store, output_dir=tmp_path / "index", kind="exact"
  )
  folder = _search(world, tmp_path / "found", index=tmp_path / "index", k=1000)
  run = read_run(folder / "run.trec")
  assert all(len(set(neighbors)) == 260 for neighbors in run.values())


def test_same_call_finds_its_work_done(world, capsys):
  folder = _search(world, world.root / "found")
  before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
  capsys.readouterr()
  _search(world, folder)
  assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == before
  assert "questions" not in capsys.readouterr().err
  with pytest.raises(InputError, match="already holds a run with another k"):
    _search(world, folder, k=3)


def test_interrupted_search_ends_with_the_same_bytes(world, tmp_path):
  whole = _search(world, tmp_path / "whole")
  names = ("run.trec", "question_embeddings.npy", "manifest.json")
  expected = {name: (whole / name).read_bytes() for name in names}
  (whole / "manifest.json").unlink()
  (whole / "run.trec").write_text("half")
  _search(world, whole)
  assert {name: (whole / name).read_bytes() for name in names} == expected


@pytest.mark.parametrize("name", ["run.trec", "question_embeddings.npy"])
def test_a_damaged_search_is_told_of_and_made_again(
  world, tmp_path, capsys, name
):
  folder = _search(world, tmp_path / "found")
  before = {path.name: path.read_bytes() for path in folder.iterdir()}
  (folder / name).write_bytes(before[name][:-2])
  _search(world, folder)
  assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
  assert f"{name}: differs from its checksum" in capsys.readouterr().err


def test_another_encoder_is_refused(world, tmp_path):
  other = _write_checkpoint(
    tmp_path / "model",
    lambda params: jax.tree.map(lambda x: x * np.float32(1.001), params),
  )
  with pytest.raises(InputError, match="vectors of another encoder"):
    _search(world, tmp_path / "found", checkpoint_path=other)
  assert not (tmp_path / "found").exists()


@pytest.mark.parametrize(
  "change",
  [{"pooling": "cls"}, {"query_prefix": ""}, {"normalize": False}],
  ids=lambda change: next(iter(change)),
)
def test_the_encoder_configured_otherwise_is_refused(world, tmp_path, change):
  config = load_dual_encoder(world.checkpoint).config
  other = dataclasses.replace(config, **change)
  with pytest.raises(InputError, match="vectors of another encoder"):
    _search(world, tmp_path / "found", encoder=other)


def test_another_query_length_is_allowed(world, tmp_path):
  config = load_dual_encoder(world.checkpoint).config
  longer = dataclasses.replace(config, query_length=32)
  assert _search(world, tmp_path / "found", encoder=longer).is_dir()


def test_bad_input_leaves_nothing_behind(world, tmp_path):
  bad = tmp_path / "bad.jsonl"
  bad.write_text('{"id": 1, "question": "?", "lang": "ar"}\n{"id": 2\n')
  for arguments, message in (
    ({"questions": bad}, "bad.jsonl:2: not valid JSON"),
    ({"questions": tmp_path / "absent.jsonl"}, "no such file"),
    ({"index": tmp_path / "absent"}, "no finished index here"),
    ({"k": 0}, "k is 0"),
  ):
    with pytest.raises(InputError, match=message):
      _search(world, tmp_path / "found", **arguments)
    assert not (tmp_path / "found").exists()


def test_unfilled_places_and_float32_scores_in_a_run():
  scores = np.array([[1 / 3, 0.25, -np.inf], [2, 1, 0]], np.float32)
  rows = np.array([[2, 0, -1], [0, 1, 2]])
  run = make_run(["x", "y"], ["a", "b", "c"], scores, rows)
  assert run == {
    "x": {"c": 0.33333334, "a": 0.25},
    "y": {"a": 2.0, "b": 1.0, "c": 0.0},
  }
  assert np.float32(run["x"]["c"]) == scores[0, 0]
