"""SeqIO tasks over a local collection."""

import importlib.util
import pathlib

import numpy as np
import pytest
import sacrebleu
import seqio
import tensorflow as tf

import xqg_jax.tasks as tasks
from tests.helpers.tiny_collection import COUNTS, make_pairs, make_tokenizer
from tests.helpers.tiny_tasks import (
  DUAL_LENGTHS,
  ENCODER,
  GENERATION_LENGTHS,
  read_examples,
  register_tiny_tasks,
)
from xqg_jax.data.languages import get_language
from xqg_jax.data.passages import Passage, read_passages, write_passages
from xqg_jax.data.questions import read_questions
from xqg_jax.data.training_pairs import write_training_pairs
from xqg_jax.errors import InputError
from xqg_jax.models.bert.encoder import BertConfig, BertEncoder
from xqg_jax.models.dual_encoder.dual_encoder import DualEncoder
from xqg_jax.seqio_data.sources import TrainingPairsSource
from xqg_jax.text.prompts import make_prompt
from xqg_jax.xor_mini import make_xor_mini

RATES = ("_equal", "_temperature")


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
  return register_tiny_tasks(tmp_path_factory.mktemp("tiny"))


def test_registered_names():
  assert {f"tiny_generation_{code}" for code in COUNTS} <= set(
    seqio.TaskRegistry.names()
  )
  mixtures = {f"tiny_generation{rate}" for rate in ("", *RATES)}
  assert mixtures <= set(seqio.MixtureRegistry.names())
  assert "tiny_dual_encoder" in seqio.TaskRegistry.names()


def test_generation_examples_are_prompt_and_question():
  tokenizer = make_tokenizer("t5")
  pairs = [p for p in make_pairs() if p.language == "fi"]
  examples = read_examples("tiny_generation_fi", {"inputs": 12, "targets": 16})
  assert len(examples) == len(pairs)
  for pair, example in zip(pairs, examples, strict=True):
    passage = pair.positives[0]
    prompt = (
      "Generate a Finnish question for this passage: "
      f"{passage.title} {passage.text}"
    )
    assert example["inputs_pretokenized"].decode() == prompt
    # Cut to 12 with the end of sequence kept, as the tokenizer does it.
    (expected,) = tokenizer.encode_batch([prompt], max_length=12)
    assert example["inputs"].tolist() == expected.tolist()
    (expected,) = tokenizer.encode_batch([pair.query], max_length=16)
    assert example["targets"].tolist() == expected.tolist()


@pytest.mark.parametrize(
  ("rate", "expected"),
  [
    ("", COUNTS),
    ("_equal", dict.fromkeys(COUNTS, 1.0)),
    ("_temperature", {k: v**0.5 for k, v in COUNTS.items()}),
  ],
)
def test_mixtures_draw_by_their_rates(rate, expected):
  mixture = seqio.get_mixture_or_task(f"tiny_generation{rate}")
  rates = {task.name[-2:]: mixture.get_rate(task) for task in mixture.tasks}
  # SeqIO's temperature is relative to the largest.
  scale = rates["fi"] / expected["fi"]
  assert rates == pytest.approx({k: v * scale for k, v in expected.items()})


def test_validation_is_read_from_pairs_or_from_judged_questions(tmp_path):
  make_xor_mini(
    output_dir=tmp_path,
    num_passages=200,
    num_train_questions=20,
    num_dev_questions_per_language=3,
    languages=["fi", "ko"],
  )
  arguments = {"data_dir": tmp_path, "tokenizer": make_tokenizer("t5")}
  assert tasks.local_generation(**arguments, name="xor_mini") == (
    "xor_mini_generation"
  )
  passages = {p.passage_id: p for p in read_passages(tmp_path / "passages.tsv")}
  qrels = dict(
    line.split()[::2]
    for line in (tmp_path / "qrels_dev.tsv").read_text().splitlines()
  )
  for language in ("fi", "ko"):
    examples = read_examples(
      f"xor_mini_generation_{language}", None, split="validation"
    )
    questions = [
      q
      for q in read_questions(tmp_path / "questions_dev.jsonl")
      if q.language == language
    ]
    assert len(examples) == len(questions) == 3
    for example, question in zip(examples, questions, strict=True):
      assert example["targets_pretokenized"].decode() == question.question
      passage = passages[qrels[question.question_id]]
      prompt = make_prompt(passage, get_language(language))
      assert example["inputs_pretokenized"].decode() == prompt
  # A file of pairs comes first.
  with open(tmp_path / "dev_pairs.jsonl", "w") as file:
    write_training_pairs(file, make_pairs()[:2])
  tasks.local_generation(**arguments, rate="equal", languages=["fi"])
  examples = read_examples("local_generation_fi", None, split="validation")
  assert [e["targets_pretokenized"].decode() for e in examples] == [
    pair.query for pair in make_pairs()[:2]
  ]


def test_metrics_of_outputs():
  task = seqio.get_mixture_or_task("tiny_generation_ru")
  example = {"language": b"ru"}
  targets = [
    task.postprocess_fn(question, example=example, is_target=True)
    for question in ("Где течёт река?", "Где стоит гора?")
  ]
  predictions = [
    task.postprocess_fn(text, example=example, is_target=False)
    for text in ("Где течёт  река?", "Where is it?")
  ]
  found = {}
  for metric in task.metric_fns:
    found |= metric(targets, predictions)
  assert found["right_script"] == 0.5
  reference = sacrebleu.corpus_chrf(
    ["Где течёт река?", "Where is it?"],
    [["Где течёт река?", "Где стоит гора?"]],
  )
  assert found["chrf"] == reference.score


def test_inference_asks_in_every_language(tmp_path):
  passages = [Passage(str(i), f"Text {i}.", f"Title {i}") for i in range(5)]
  with open(tmp_path / "p.tsv", "w", encoding="utf-8") as file:
    write_passages(file, passages)
  name = tasks.local_inference(
    passages=tmp_path / "p.tsv",
    tokenizer=make_tokenizer("t5"),
    languages=["fi", "ru"],
  )
  assert name == "local_inference"
  examples = read_examples(name, {"inputs": 40, "targets": 8}, split="test")
  assert [
    (e["passage_id"].decode(), e["language"].decode()) for e in examples
  ] == [(p.passage_id, code) for p in passages for code in ("fi", "ru")]
  prompt = make_prompt(passages[3], get_language("ru"))
  assert examples[7]["inputs_pretokenized"].decode() == prompt
  assert examples[7]["targets"].tolist() == [1]
  # Hosts share the passages; the languages of one stay together.
  task = seqio.get_mixture_or_task(name)
  shard = task.get_dataset(
    None, split="test", shuffle=False, shard_info=seqio.ShardInfo(1, 2)
  )
  assert [e["passage_id"] for e in shard.as_numpy_iterator()] == [
    *[b"1", b"1", b"3", b"3"]
  ]
  with pytest.raises(InputError, match="unknown language 'xx'"):
    tasks.local_inference(
      passages="p", tokenizer=make_tokenizer("t5"), languages=["xx"]
    )


def test_dual_encoder_examples_equal_the_tokenizers_own():
  tokenizer = make_tokenizer("bert")
  module = BertEncoder(
    BertConfig(
      vocab_size=200,
      hidden_size=8,
      num_hidden_layers=1,
      num_attention_heads=2,
      intermediate_size=8,
    )
  )
  encoder = DualEncoder(
    module=module,
    params={},
    config=ENCODER,
    tokenizer=tokenizer,
    fingerprint="",
  )
  for pair, example in zip(
    make_pairs(), read_examples("tiny_dual_encoder", DUAL_LENGTHS), strict=True
  ):
    (query,) = tokenizer.encode_batch(
      [encoder.format_query(pair.query)], max_length=12
    )
    assert example["query"].tolist() == query.tolist()
    texts = [encoder.format_passage(p) for p in pair.positives]
    (passage,) = tokenizer.encode_batch(texts, max_length=24)
    assert example["passage"].tolist() == passage.tolist()
    texts = [encoder.format_passage(p) for p in pair.negatives]
    known = [
      tuple(row.tolist())
      for row in tokenizer.encode_batch(texts, max_length=24)
    ]
    drawn = [
      tuple(i for i in row.tolist() if i)
      for row in example["negative_passages"]
    ]
    assert len(drawn) == len(set(drawn)) == min(2, len(known))
    assert set(drawn) <= set(known)


def test_other_epochs_draw_other_negatives_and_seeds_decide():
  def draws(**kwargs):
    examples = read_examples("tiny_dual_encoder", DUAL_LENGTHS, **kwargs)
    return [e["negative_passages"].tolist() for e in examples]

  twice = draws(num_epochs=2)
  size = sum(COUNTS.values())
  assert twice[:size] == draws()
  assert twice[:size] != twice[size:]
  assert draws(seed=1) != draws()


def test_a_large_collection_is_tokenised_after_the_draw():
  small = read_examples("tiny_dual_encoder", DUAL_LENGTHS)
  task = seqio.get_mixture_or_task("tiny_dual_encoder")
  dataset = task.source.get_dataset("train")
  of_unknown_size = dataset.filter(lambda example: True)
  precache = task.preprocess_precache(of_unknown_size, seed=0)
  assert precache.element_spec["negatives"].dtype == tf.string
  large = task.preprocess_postcache(precache, DUAL_LENGTHS, seed=0)
  for a, b in zip(small, large.as_numpy_iterator(), strict=True):
    np.testing.assert_array_equal(a["query"], b["query"])
    np.testing.assert_array_equal(
      a["negative_passages"], b["negative_passages"]
    )


@pytest.mark.parametrize(
  ("name", "lengths"),
  [
    ("tiny_generation", GENERATION_LENGTHS),
    ("tiny_dual_encoder", DUAL_LENGTHS),
  ],
)
def test_two_fresh_iterations_are_equal(name, lengths):
  first, second = (
    read_examples(name, lengths, shuffle=True, num_epochs=3) for _ in range(2)
  )
  assert len(first) == len(second) > 0
  for a, b in zip(first, second, strict=True):
    for key in a:
      np.testing.assert_array_equal(a[key], b[key])


def test_shards_cover_every_pair_once(folder):
  source = TrainingPairsSource({"train": folder / "train_pairs.jsonl"})
  ids = [
    example["query_id"].decode()
    for index in range(3)
    for example in source.get_dataset(
      shard_info=seqio.ShardInfo(index, 3)
    ).as_numpy_iterator()
  ]
  assert sorted(ids) == sorted(pair.query_id for pair in make_pairs())
  assert source.num_input_examples("train") == len(ids)


def test_tasks_cannot_be_imported_bare():
  path = pathlib.Path(tasks.__file__)
  spec = importlib.util.spec_from_file_location("tasks", path)
  with pytest.raises(ImportError, match=r"xqg_jax\.tasks"):
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_missing_file_and_languages(tmp_path, folder):
  arguments = {"name": "x", "generator_tokenizer": make_tokenizer("t5")}
  with pytest.raises(InputError, match=r"train_pairs\.jsonl: no such file"):
    tasks.register_local_tasks(data_dir=tmp_path, **arguments)
  with pytest.raises(InputError, match="unknown language 'xx'"):
    tasks.register_local_tasks(data_dir=folder, languages=["xx"], **arguments)
  line = (
    '{"query_id": "1", "query": "q", "positive_passages": '
    '[{"docid": "1", "title": "", "text": "t"}]}\n'
  )
  (tmp_path / "train_pairs.jsonl").write_text(line)
  with pytest.raises(InputError, match="have no language"):
    tasks.register_local_tasks(data_dir=tmp_path, **arguments)
  with pytest.raises(InputError, match="no pairs in the language 'fi'"):
    TrainingPairsSource(
      {"train": tmp_path / "train_pairs.jsonl"}, language="fi"
    ).get_dataset()
