"""Retrieval during training against the stages, on any layout of parameters."""

import json
import logging

import jax
import numpy as np
import pytest

from tests.helpers import tiny_dual_encoder as tiny
from xqg_jax.data.passages import Passage, write_passages
from xqg_jax.data.questions import Question, write_questions
from xqg_jax.errors import InputError
from xqg_jax.models.dual_encoder.config import DualEncoderConfig
from xqg_jax.runtime.sharding import make_mesh, params_shardings
from xqg_jax.stages.encode import encode
from xqg_jax.stages.evaluate import evaluate
from xqg_jax.stages.index import build_index
from xqg_jax.stages.search import search
from xqg_jax.training.dev_retrieval import DevRetrieval
from xqg_jax.training.dual_encoder_model import DualEncoderModel

SEPARATE = DualEncoderConfig(
  pooling="cls",
  normalize=False,
  query_length=24,
  passage_length=80,
  share_encoders=False,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  """Passages longer in all than 2,000 tokens, each with a number in it."""
  folder = tmp_path_factory.mktemp("dev")
  texts = tiny.make_texts(90, longest=70)
  passages = [
    Passage(f"p{n}", f"{text} built in {1000 + n} .", "town" * (n % 2))
    for n, text in enumerate(texts)
  ]
  questions = [
    Question(f"q{n}", text, ("fi", "ru", "ja")[n % 3 * (n % 4 > 0)], answers)
    for n, (text, answers) in enumerate(
      zip(
        tiny.make_texts(30, longest=12, seed=1),
        [("yes",), *((str(1000 + 2 * n),) for n in range(29))],
        strict=True,
      )
    )
  ]
  with (folder / "passages.tsv").open("w") as file:
    write_passages(file, passages)
  with (folder / "questions.jsonl").open("w") as file:
    write_questions(file, questions)
  return folder


def make_dev(world, config=tiny.CONFIG, num_partitions=1, **options):
  encoder = tiny.make_encoder(config)
  model, _ = DualEncoderModel(
    config=tiny.MODEL, encoder=config, tokenizer=encoder.tokenizer
  ).complete(None)
  mesh = make_mesh(num_partitions)
  axes = params_shardings(mesh, model.param_axes(), encoder.params)
  dev = DevRetrieval(
    model,
    **{
      "questions": world / "questions.jsonl",
      "passages": world / "passages.tsv",
      "mesh": mesh,
      **options,
    },
  )
  return dev, jax.device_put(encoder.params, axes)


def run_stages(world, config, out):
  """The same numbers by encode, index, search and evaluate."""
  checkpoint = tiny.write_checkpoint(out / "model", config=config)
  encode(
    checkpoint_path=checkpoint,
    passages=world / "passages.tsv",
    output_dir=out / "store",
  )
  build_index(embeddings=out / "store", output_dir=out / "index", kind="exact")
  search(
    index=out / "index",
    questions=world / "questions.jsonl",
    checkpoint_path=checkpoint,
    output_dir=out / "found",
    k=100,
  )
  evaluation = evaluate(
    runs={"run": out / "found"},
    questions=world / "questions.jsonl",
    passages=world / "passages.tsv",
    output_dir=out / "scores",
    tokenizer="no_sentences",
  )
  return {
    "dev_R@2kt": evaluation.result("run", "R@2kt")["value"],
    "dev_MRR@10": evaluation.result("run", "RR@10")["value"],
  }


@pytest.mark.parametrize("config", [tiny.CONFIG, SEPARATE])
def test_values_are_those_of_the_stages(world, tmp_path, config):
  dev, params = make_dev(world, config)
  found = dev.measure(params)
  assert found == run_stages(world, config, tmp_path)
  # Neither is trivial here.
  assert all(0 < value < 100 for value in found.values())


def test_layouts_agree_and_nothing_is_compiled_twice(world, caplog):
  values = []
  for num_partitions in (1, 2):
    dev, params = make_dev(world, num_partitions=num_partitions)
    values.append(dev.measure(params))
    with caplog.at_level(logging.WARNING), jax.log_compiles():
      values.append(dev.measure(params))
    assert not [r for r in caplog.records if "ompil" in r.message]
  word = params["encoder"]["embeddings"]["word"]
  assert word.sharding.shard_shape(word.shape)[0] == len(word) // 2
  assert all(value == values[0] for value in values)


def test_several_chunks_give_the_same_and_changed_parameters_another(
  world, monkeypatch
):
  dev, params = make_dev(world)
  whole = dev.measure(params)
  monkeypatch.setattr("xqg_jax.training.dev_retrieval._TEXTS_PER_CHUNK", 16)
  assert dev.measure(params) == whole
  other = jax.tree.map(lambda x: x[..., ::-1], params)
  assert dev.measure(other) != whole


def test_what_is_ranked_has_a_limit(world, monkeypatch):
  monkeypatch.setattr("xqg_jax.training.dev_retrieval._MAX_RANK", 1)
  dev, params = make_dev(world)
  first = dev.measure(params)
  # One passage a question: either it holds the answer or nothing does.
  assert first["dev_R@2kt"] == first["dev_MRR@10"]


def test_bad_input_is_one_clear_line(world, tmp_path):
  def write(name, text):
    path = tmp_path / name
    path.write_text(text)
    return path

  question = {"id": "q", "question": "?", "lang": "fi", "answers": ["no"]}
  only_no = write("no.jsonl", json.dumps(question))
  for options, message in (
    ({"passages": tmp_path / "none.tsv"}, "none.tsv"),
    ({"passages": write("bad.tsv", "p1\n")}, r"bad\.tsv:1: found 1 tab"),
    ({"questions": write("bad.jsonl", "{}")}, r"bad\.jsonl:1: .*'question'"),
    ({"questions": only_no}, r"no\.jsonl: no question can be scored"),
  ):
    with pytest.raises(InputError, match=message) as error:
      make_dev(world, **options)
    assert "\n" not in str(error.value)


def test_parameters_that_are_not_finite_are_named(world):
  dev, params = make_dev(world)
  with pytest.raises(InputError, match="holds NaN or infinity"):
    dev.measure(jax.tree.map(lambda x: x * np.nan, params))
