"""SeqIO tasks over a local collection, and the batches drawn from them."""

import collections
import importlib.util
import pathlib

import numpy as np
import pytest
import seqio
import tensorflow as tf
import xqg_jax.tasks as tasks
from tiny_collection import COUNTS, make_pairs, make_tokenizer, write_collection

from xqg_jax.data_sources import TrainingPairsSource
from xqg_jax.errors import InputError
from xqg_jax.feature_converters import DualEncoderFeatureConverter
from xqg_jax.models.bert import BertConfig, BertEncoder
from xqg_jax.models.dual_encoder import DualEncoder, DualEncoderConfig
from xqg_jax.training_data import EpochSampler, make_batches

ENCODER = DualEncoderConfig(
  pooling="cls",
  normalize=False,
  query_prefix="query: ",
  passage_prefix="passage: ",
)
DUAL_LENGTHS = {"query": 12, "passage": 24, "negative_passages": (2, 24)}
GENERATION_LENGTHS = {"inputs": 40, "targets": 16}


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
  folder = write_collection(tmp_path_factory.mktemp("tiny"))
  tasks.register_local_tasks(
    name="tiny",
    data_dir=folder,
    generator_tokenizer=make_tokenizer("t5"),
    encoder_tokenizer=make_tokenizer("bert"),
    encoder_config=ENCODER,
  )
  return folder


def _examples(name, lengths, **kwargs):
  provider = seqio.get_mixture_or_task(name)
  dataset = provider.get_dataset(
    lengths, **{"shuffle": False, "seed": 0, "num_epochs": 1, **kwargs}
  )
  return list(dataset.as_numpy_iterator())


def test_registered_names():
  assert {f"tiny_generation_{code}" for code in COUNTS} <= set(
    seqio.TaskRegistry.names()
  )
  assert "tiny_generation" in seqio.MixtureRegistry.names()
  assert "tiny_dual_encoder" in seqio.TaskRegistry.names()


def test_generation_examples_are_prompt_and_question():
  tokenizer = make_tokenizer("t5")
  pairs = [p for p in make_pairs() if p.language == "fi"]
  examples = _examples("tiny_generation_fi", {"inputs": 12, "targets": 16})
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


def test_mixture_is_in_proportion():
  mixture = seqio.get_mixture_or_task("tiny_generation")
  rates = {task.name[-2:]: mixture.get_rate(task) for task in mixture.tasks}
  assert rates == COUNTS


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
    make_pairs(), _examples("tiny_dual_encoder", DUAL_LENGTHS), strict=True
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
    examples = _examples("tiny_dual_encoder", DUAL_LENGTHS, **kwargs)
    return [e["negative_passages"].tolist() for e in examples]

  twice = draws(num_epochs=2)
  size = sum(COUNTS.values())
  assert twice[:size] == draws()
  assert twice[:size] != twice[size:]
  assert draws(seed=1) != draws()


def test_a_large_collection_is_tokenised_after_the_draw():
  small = _examples("tiny_dual_encoder", DUAL_LENGTHS)
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
    _examples(name, lengths, shuffle=True, num_epochs=3) for _ in range(2)
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


def test_converter_pads_with_the_given_id():
  dataset = tf.data.Dataset.from_tensors(
    {
      "query": tf.constant([0, 7, 2]),
      "passage": tf.constant([0, 8, 9, 2]),
      "negative_passages": tf.constant([[0, 5, 2]]),
    }
  )
  lengths = {"query": 4, "passage": 5, "negative_passages": (2, 4)}
  (row,) = DualEncoderFeatureConverter(pad_id=1)(
    dataset, lengths
  ).as_numpy_iterator()
  assert row["query_tokens"].tolist() == [0, 7, 2, 1]
  assert row["passage_tokens"].tolist() == [0, 8, 9, 2, 1]
  assert row["negative_passage_tokens"].tolist() == [
    [0, 5, 2, 1],
    [1, 1, 1, 1],
  ]


# --------------------------------------------------------------------- batches


def _batches(count, **kwargs):
  batches = make_batches(
    **{
      "mixture_or_task_name": "tiny_generation",
      "task_feature_lengths": GENERATION_LENGTHS,
      "feature_converter": seqio.EncDecFeatureConverter(pack=False),
      "batch_size": 4,
      "seed": 5,
      **kwargs,
    }
  )
  return [next(batches) for _ in range(count)]


def _dual(**kwargs):
  return {
    "mixture_or_task_name": "tiny_dual_encoder",
    "task_feature_lengths": DUAL_LENGTHS,
    "feature_converter": DualEncoderFeatureConverter(0),
    **kwargs,
  }


def test_an_epoch_has_each_example_once_and_epochs_differ():
  rows = [
    tuple(row)
    for batch in _batches(8)
    for row in batch["decoder_target_tokens"].tolist()
  ]
  assert len(set(rows[:16])) == 16
  assert set(rows[:16]) == set(rows[16:])
  assert rows[:16] != rows[16:]


@pytest.mark.parametrize("in_memory", [0, 1000])
@pytest.mark.parametrize("task", [{}, _dual(num_draws=4)])
def test_batches_from_a_later_step_equal_the_unbroken_ones(in_memory, task):
  task = {**task, "max_examples_in_memory": in_memory}
  unbroken = _batches(9, **task)
  later = _batches(3, start_step=6, **task)
  for a, b in zip(unbroken[6:], later, strict=True):
    assert a.keys() == b.keys()
    for key in a:
      np.testing.assert_array_equal(a[key], b[key])


def test_sampler_shares_epochs_by_the_rates():
  sampler = EpochSampler([6, 2], [1.0, 1.0], seed=0)
  assert sampler.shares == [4, 4]
  counts = collections.Counter(sampler.rows(0, 24).tolist())
  # Three epochs: 12 draws of six examples, 12 of two.
  assert counts == {**dict.fromkeys(range(6), 2), 6: 6, 7: 6}
  np.testing.assert_array_equal(sampler.rows(0, 24)[5:17], sampler.rows(5, 12))


def test_sampler_takes_turns_among_the_draws():
  sampler = EpochSampler([3, 2], [3, 2], seed=1, num_draws=2)
  assert sorted(sampler.epoch(0)) == [0, 1, 2, 6, 7]
  assert sorted(sampler.epoch(1)) == [3, 4, 5, 8, 9]
  assert sorted(sampler.epoch(2)) == [0, 1, 2, 6, 7]


# ---------------------------------------------------------------------- errors


def test_tasks_cannot_be_imported_bare():
  path = pathlib.Path(tasks.__file__)
  spec = importlib.util.spec_from_file_location("tasks", path)
  with pytest.raises(ImportError, match=r"xqg_jax\.tasks"):
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_unknown_task_names_the_known_ones():
  with pytest.raises(InputError, match="tiny_generation"):
    _batches(1, mixture_or_task_name="tiny_generatoin")


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
