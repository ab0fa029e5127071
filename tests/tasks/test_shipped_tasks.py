"""The tasks of XOR-TyDi: registered lightly, read from TFDS, trained on."""

import gzip
import shutil
import subprocess
import sys

import numpy as np
import pytest
import seqio

import xqg_jax.tasks as tasks
from tests.helpers.tiny_collection import COUNTS, make_pairs, make_tokenizer
from tests.helpers.tiny_dataset_files import (
  gold_article,
  gold_document,
  write_gold,
)
from tests.helpers.tiny_tasks import (
  DUAL_LENGTHS,
  ENCODER,
  GENERATION_LENGTHS,
  read_examples,
  register_tiny_tasks,
)
from xqg_jax.data.languages import XOR_TYDI_LANGUAGES
from xqg_jax.data.training_pairs import write_training_pairs
from xqg_jax.datasets.catalogue import prepare_dataset
from xqg_jax.errors import InputError
from xqg_jax.models.t5.config import T5Config
from xqg_jax.seqio_data.batches import check_vocabulary, make_batches
from xqg_jax.seqio_data.sources import TfdsPairsSource
from xqg_jax.stages.train import train
from xqg_jax.training.query_generator_model import QueryGeneratorModel


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
  return register_tiny_tasks(tmp_path_factory.mktemp("tiny"))


def test_the_shipped_tasks_are_registered_without_reading_anything():
  code = """
import seqio, xqg_jax.tasks
print(*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names())
"""
  result = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  names = {
    *(f"xqg_generation_{code}" for code in XOR_TYDI_LANGUAGES),
    *("xqg_generation", "xqg_generation_equal", "xqg_generation_temperature"),
    *("xdr_xor_tydi", "xdr_nq", "xdr_xor_tydi_nq"),
  }
  assert set(result.stdout.split()) == names


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
  """The tiny pairs as TFDS stores them."""
  folder = tmp_path_factory.mktemp("tfds")
  with gzip.open(folder / "xor-t2e-100w.jsonl.gz", "wt") as file:
    write_training_pairs(file, make_pairs())
  prepare_dataset(
    dataset="xor_tydi/pairs",
    output_dir=folder,
    manual_dir=folder,
    verify_checksums=False,
    plain_files=False,
  )
  return str(folder)


def test_shipped_tasks_equal_those_of_the_same_pairs_in_a_folder(tfds_dir):
  arguments = {"encoder_config": ENCODER, "tfds_data_dir": tfds_dir}
  tasks.xor_tydi_generation(
    tokenizer=make_tokenizer("t5"),
    tfds_name="xor_tydi/pairs:1.0.0",
    tfds_data_dir=tfds_dir,
  )
  tasks.xor_tydi_dual_encoder(tokenizer=make_tokenizer("bert"), **arguments)
  for shipped, local, lengths in (
    ("xqg_generation_fi", "tiny_generation_fi", GENERATION_LENGTHS),
    ("xdr_xor_tydi", "tiny_dual_encoder", DUAL_LENGTHS),
  ):
    found, expected = (
      read_examples(shipped, lengths),
      read_examples(local, lengths),
    )
    assert len(found) == len(expected) > 0
    for a, b in zip(found, expected, strict=True):
      assert a.keys() == b.keys()
      for key in a:
        np.testing.assert_array_equal(a[key], b[key])
  mixture = seqio.get_mixture_or_task("xqg_generation")
  counts = {t.name[-2:]: t.num_input_examples("train") for t in mixture.tasks}
  assert counts == {**dict.fromkeys(XOR_TYDI_LANGUAGES, 0), **COUNTS}
  batch = next(
    make_batches(
      mixture_or_task_name="xqg_generation_fi",
      task_feature_lengths=GENERATION_LENGTHS,
      feature_converter=seqio.EncDecFeatureConverter(pack=False),
      batch_size=4,
      seed=0,
    )
  )
  assert batch["encoder_input_tokens"].shape == (4, 40)
  tasks.register_xor_tydi_tasks()


@pytest.mark.slow
def test_a_shipped_task_trains_natively(tmp_path):
  pairs = [pair for pair in make_pairs() if pair.language == "fi"]
  document = gold_document(
    *(
      gold_article(
        pair.positives[0].title,
        pair.positives[0].text,
        id=pair.query_id,
        question=pair.query,
        answers=[{"text": "north", "answer_start": 0}],
      )
      for pair in pairs
    )
  )
  write_gold(tmp_path, document, document, is_zipped=False)
  prepare_dataset(
    dataset="xor_tydi/gold_passages",
    output_dir=tmp_path,
    manual_dir=tmp_path,
    verify_checksums=False,
    plain_files=False,
  )
  model_dir = train(
    model_dir=tmp_path / "model",
    model=QueryGeneratorModel(
      config=T5Config(
        vocab_size=200,
        emb_dim=8,
        num_heads=2,
        head_dim=4,
        mlp_dim=8,
        num_encoder_layers=1,
        num_decoder_layers=1,
      ),
      tokenizer=make_tokenizer("t5"),
    ),
    mixture_or_task_name="xqg_generation_fi",
    data_dir=tmp_path,
    task_feature_lengths={"inputs": 24, "targets": 12},
    train_steps=2,
    batch_size=8,
  )
  assert (model_dir / "checkpoint_2").is_dir()
  task = seqio.get_mixture_or_task("xqg_generation_fi")
  assert set(task.splits) == {"train", "validation"}
  (first, *_) = read_examples("xqg_generation_fi", None, split="validation")
  assert first["targets_pretokenized"].decode() == pairs[0].query
  tasks.register_xor_tydi_tasks()


def test_data_that_are_not_prepared_are_named_with_the_command(tmp_path):
  # The second has no builder's code, as in `xqg train`.
  for name in ("xor_tydi/gold_passages", "unknown/gold_passages"):
    source = TfdsPairsSource(
      f"{name}:1.0.0", language="fi", tfds_data_dir=str(tmp_path)
    )
    for read in (
      lambda source=source: source.splits,
      lambda source=source: source.num_input_examples("train"),
      lambda source=source: source.get_dataset("train"),
    ):
      with pytest.raises(InputError) as error:
        read()
      assert str(error.value) == (
        f"{name} is not prepared in {tmp_path}; run `xqg prepare "
        f"--gin.DATASET={name} --gin.OUTPUT_DIR={tmp_path}`"
      )


def test_data_prepared_anew_are_counted_anew(tmp_path):
  counts = []
  for number in (5, 3):
    folder = tmp_path / "data"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with gzip.open(folder / "xor-t2e-100w.jsonl.gz", "wt") as file:
      write_training_pairs(file, make_pairs()[:number])
    prepare_dataset(
      dataset="xor_tydi/pairs",
      output_dir=folder,
      manual_dir=folder,
      verify_checksums=False,
      plain_files=False,
    )
    source = TfdsPairsSource(
      "xor_tydi/pairs:1.0.0", language="fi", tfds_data_dir=str(folder)
    )
    counts.append(source.num_input_examples("train"))
    assert len(list(source.get_dataset("train"))) == number
  assert counts == [5, 3]


def test_a_model_brings_its_tokenizer_to_the_shipped_tasks():
  tokenizer = make_tokenizer("t5")
  tasks.register_tasks_of("xqg_generation_equal", tokenizer=tokenizer)
  check_vocabulary("xqg_generation", tokenizer)
  with pytest.raises(InputError, match="has another tokenizer"):
    check_vocabulary("xqg_generation", make_tokenizer("bert"))
  tasks.register_xor_tydi_tasks()
