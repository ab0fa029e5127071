"""Generated queries as training data, alone and mixed with other pairs."""

import collections
import json
import zlib

import numpy as np
import pytest

import xqg_jax.tasks as tasks
from tests.helpers.tiny_collection import make_tokenizer
from tests.helpers.tiny_t5 import CONFIG
from tests.helpers.tiny_tasks import (
  DUAL_LENGTHS,
  ENCODER,
  read_examples,
  register_tiny_tasks,
)
from xqg_jax.data.generated_pairs import GeneratedPairs
from xqg_jax.data.generated_queries import read_generated_queries
from xqg_jax.demo.demo import make_encoder_model
from xqg_jax.errors import InputError
from xqg_jax.io.files import sha256_file
from xqg_jax.seqio_data.batches import make_batches
from xqg_jax.seqio_data.feature_converter import DualEncoderFeatureConverter
from xqg_jax.stages.train import train
from xqg_jax.training.query_generator_model import QueryGeneratorModel

# A German query beside those of the seven languages, and one that is blank.
QUERIES = {
  "p0": {"fi": ["Missä joki p0?", "Minne p0?", " "], "de": ["Wo ist p0?"]},
  "p1": {},
  "p2": {"de": ["Wo ist p2?"], "fi": ["Missä joki p2?"]},
  "p3": {"fi": ["Missä joki p3?"]},
}


def _write(folder, order=tuple(QUERIES)):
  folder.mkdir(exist_ok=True)
  with (folder / "passages.tsv").open("w") as file:
    for name in QUERIES:
      file.write(f"{name}\tThe river of {name}.\t{name}\n")
  with (folder / "queries.jsonl").open("w") as file:
    for name in order:
      row = {"docid": name, "generated_queries": QUERIES[name]}
      file.write(json.dumps(row) + "\n")
  return {
    "passages": folder / "passages.tsv",
    "generated_queries": folder / "queries.jsonl",
  }


def _texts(**settings):
  pairs = GeneratedPairs(**settings)
  return {
    pair.query_id: (pair.query, pair.positives[0].title)
    for pair in pairs.read_pairs(pairs.scan())
  }


@pytest.mark.parametrize("order", [tuple(QUERIES), ("p3", "p0", "p1", "p2")])
def test_each_query_asks_for_its_own_passage(tmp_path, order):
  files = _write(tmp_path, order)
  found = _texts(**files)
  assert list(found) == [
    "p0-fi-0",
    "p0-fi-1",
    "p0-de-0",
    "p2-de-0",
    "p2-fi-0",
    "p3-fi-0",
  ]
  assert found["p0-fi-1"] == ("Minne p0?", "p0")
  assert list(_texts(**files, num_queries=1, languages=("fi",))) == [
    "p0-fi-0",
    "p2-fi-0",
    "p3-fi-0",
  ]


def test_settings_that_cannot_be_met(tmp_path):
  files = _write(tmp_path)
  for match, settings in (
    ("num_queries is 0", {"num_queries": 0}),
    ("share of generated pairs is 1", {"share": 1.0}),
    ("sample of passages is 0", {"sample": 0.0}),
    ("xx!", {"languages": ("xx!",)}),
  ):
    with pytest.raises(InputError, match=match):
      GeneratedPairs(**files, **settings)
  _register(tmp_path, languages=("ja",))
  with pytest.raises(InputError, match=r"no queries in ja"):
    _make_batches("tiny_dual_encoder_generated")


def _register(folder, **settings):
  pairs = GeneratedPairs(**_write(folder), **settings)
  tasks.register_generated_tasks(
    name="tiny_dual_encoder",
    pairs=pairs,
    tokenizer=make_tokenizer("bert"),
    config=ENCODER,
  )


def _encode(text, length):
  (tokens,) = make_tokenizer("bert").encode_batch([text], max_length=length)
  return tuple(tokens.tolist())


def test_an_epoch_draws_one_query_of_each_passage(tmp_path):
  _register(tmp_path)
  examples = read_examples(
    "tiny_dual_encoder_generated", DUAL_LENGTHS, num_epochs=30
  )
  assert len(examples) == 3 * 30
  drawn = collections.defaultdict(set)
  for number, example in enumerate(examples):
    name = ("p0", "p2", "p3")[number % 3]
    passage = f"passage: {name} The river of {name}."
    assert tuple(example["passage"].tolist()) == _encode(passage, 24)
    drawn[name].add(tuple(example["query"].tolist()))
  for name, queries in drawn.items():
    texts = [q for qs in QUERIES[name].values() for q in qs if q.strip()]
    assert queries == {_encode(f"query: {text}", 12) for text in texts}


def test_a_sample_is_decided_by_the_ids(tmp_path):
  files = _write(tmp_path)
  hashes = {name: zlib.crc32(name.encode()) / 2**32 for name in QUERIES}
  for sample in (0.3, 0.7):
    found = {name.partition("-")[0] for name in _texts(**files, sample=sample)}
    assert found == {n for n in QUERIES if hashes[n] < sample} - {"p1"}


def _make_batches(name):
  return make_batches(
    mixture_or_task_name=name,
    task_feature_lengths=DUAL_LENGTHS,
    feature_converter=DualEncoderFeatureConverter(pad_id=0),
    batch_size=19,
    seed=0,
    train_steps=4,
    num_draws=8,
  )


def test_a_mixture_keeps_the_share(tmp_path):
  register_tiny_tasks(tmp_path)
  _register(tmp_path / "generated", share=0.25)
  batches = _make_batches("tiny_dual_encoder_mixed")
  generated = {
    _encode(f"passage: {name} The river of {name}.", 24)
    for name in ("p0", "p2", "p3")
  }
  # An epoch has as many examples as both together, 16 + 3: 14 and 5 by rates.
  for _ in range(4):
    rows = next(batches)["passage_tokens"]
    tokens = [tuple(int(t) for t in row if t) for row in np.asarray(rows)]
    assert sum(row in generated for row in tokens) == 5


def test_training_names_what_does_not_fit(tmp_path):
  pairs = GeneratedPairs(**_write(tmp_path))
  model = QueryGeneratorModel(config=CONFIG, tokenizer=make_tokenizer("t5"))
  make_tokenizer("bert").save(tmp_path / "tokenizer")
  encoder = make_encoder_model(str(tmp_path / "tokenizer"))
  for match, settings in (
    (
      "only a dual encoder trains on generated",
      {"model": model, "generated_pairs": pairs},
    ),
    ("set MIXTURE_OR_TASK_NAME to", {"generated_pairs": pairs}),
    (
      "--gin_file=generated_pairs.gin",
      {"mixture_or_task_name": "local_dual_encoder_mixed"},
    ),
  ):
    given = {"model": encoder, "mixture_or_task_name": "local_dual_encoder"}
    with pytest.raises(InputError, match=match):
      train(
        model_dir=tmp_path / "out",
        train_steps=1,
        batch_size=8,
        **given | settings,
      )
  assert not (tmp_path / "out").exists()


def _write_run(folder, *, is_finished=True):
  """Two shards as `generate` leaves them."""
  folder.mkdir()
  for number in range(2):
    row = {"docid": str(number), "generated_queries": {"fi": ["mikä?"]}}
    (folder / f"part-{number}.jsonl").write_text(json.dumps(row) + "\n")
  (folder / "run.json").write_text('{"stage": "generate", "arguments": {}}')
  shards = [
    {"name": path.name, "sha256": sha256_file(path)}
    for path in sorted(folder.glob("*.jsonl"))
  ]
  if is_finished:
    (folder / "manifest.json").write_text(json.dumps({"shards": shards}))
  return folder


@pytest.mark.parametrize(
  ("harm", "message"),
  [
    (lambda path: path.unlink(), "part-1.jsonl: is missing"),
    (lambda path: path.write_text(""), "part-1.jsonl: differs from its check"),
    (lambda path: path.rename(f"{path}.gz"), r"part-1.jsonl.gz: is not in man"),
    (lambda path: path.with_name("part-2.jsonl").touch(), "part-2.jsonl: is n"),
    (
      lambda path: path.write_text(path.read_text() + path.read_text()),
      "part-1.jsonl: differs from its checksum; run the same command",
    ),
  ],
)
def test_shards_that_are_not_as_the_manifest_says(tmp_path, harm, message):
  folder = _write_run(tmp_path / "run")
  assert len(list(read_generated_queries(folder))) == 2
  harm(folder / "part-1.jsonl")
  with pytest.raises(InputError, match=message):
    list(read_generated_queries(folder))


def test_shards_of_a_run_that_is_not_finished(tmp_path):
  folder = _write_run(tmp_path / "run", is_finished=False)
  with pytest.raises(InputError, match="run: a run that is not finished"):
    list(read_generated_queries(folder))
  (folder / "run.json").unlink()  # somebody else's folder
  assert len(list(read_generated_queries(folder))) == 2
