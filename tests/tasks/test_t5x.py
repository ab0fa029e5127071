"""T5X, driven by the shipped gin files, on a small invented collection."""

import importlib.util
import json
import os
import subprocess
import sys

import gin
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tensorflow as tf

from tests.helpers import tiny_t5x
from xqg_jax.checkpoints import load_query_generator
from xqg_jax.cli import config
from xqg_jax.data.generated_queries import read_generated_queries
from xqg_jax.data.languages import get_language
from xqg_jax.data.passages import read_passages, write_passages
from xqg_jax.data.training_pairs import read_training_pairs
from xqg_jax.errors import InputError
from xqg_jax.seqio_data import t5x_hooks
from xqg_jax.seqio_data.vocabularies import HuggingFaceVocabulary
from xqg_jax.stages.generate import generate
from xqg_jax.text.prompts import make_prompt
from xqg_jax.text.tokenizer_training import train_tokenizer
from xqg_jax.xor_mini import make_xor_mini

GIN_FOLDER = config.gin_root() / "t5x"
GIN_FILES = sorted(path.name for path in GIN_FOLDER.glob("*.gin"))
LANGUAGES = ("fi", "ru")

needs_t5x = pytest.mark.skipif(
  importlib.util.find_spec("t5x") is None,
  reason=tiny_t5x.GET_T5X,
)


# ------------------------------------------------------------------- gin files


class _Unresolved(gin.config_parser.ParserDelegate):
  """Reads references without looking them up: T5X need not be there."""

  def configurable_reference(self, name, evaluate):
    return name, evaluate

  def macro(self, name):
    return name


@pytest.mark.parametrize("name", GIN_FILES)
def test_gin_file_teaches_and_is_well_formed(name):
  text = (GIN_FOLDER / name).read_text()
  header = text.partition("from __gin__")[0]
  for part in ("Required to be set", "Commonly overridden:", "Command:"):
    assert part in header
  assert max(map(len, header.splitlines())) <= 80
  statements = list(gin.config_parser.ConfigParser(text, _Unresolved()))
  assert len(statements) > 2


@needs_t5x
@pytest.mark.slow
@pytest.mark.parametrize("script", ["train", "infer"])
def test_gin_files_resolve(script):
  # In a process of its own: `__main__` must be T5X's script.
  run = {"train": ["finetune", "decay"], "infer": ["infer"]}[script]
  files = [*run, "{model}", *["local"] * (script == "train")]
  code = f"""
import importlib.util, os
import gin, t5x, t5x.{script}
import __main__
__main__.{script} = gin.external_configurable(
  t5x.{script}.{script}, module="__main__"
)
gin.add_config_file_search_path(os.path.dirname(list(t5x.__path__)[0]))
for size in ("tiny", "small", "base", "large", "xl"):
  gin.clear_config()
  files = [n.format(model="mt5_" + size) for n in {files!r}]
  gin.parse_config_files_and_bindings(
    [f"xqg_jax/gin_configs/t5x/{{name}}.gin" for name in files],
    [f"{{name}} = 'x'" for name in (
      "MODEL_DIR", "DATA_DIR", "TOKENIZER", "PASSAGES", "CHECKPOINT_PATH",
      "INFER_OUTPUT_DIR")],
  )
  print(gin.query_parameter("network.T5Config.emb_dim"))
"""
  widths = _run(["-c", code]).stdout.split()
  assert widths == ["96", "512", "768", "1024", "2048"]


# ----------------------------------------------------------------- whole runs


def _run(arguments, *, num_devices=1, folder=None):
  result = subprocess.run(
    [sys.executable, *arguments],
    cwd=folder,
    env={
      **os.environ,
      "JAX_PLATFORMS": "cpu",
      "TF_CPP_MIN_LOG_LEVEL": "3",
      "XLA_FLAGS": f"--xla_force_host_platform_device_count={num_devices}",
    },
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stderr[-3000:]
  return result


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
  folder = tmp_path_factory.mktemp("t5x")
  make_xor_mini(
    output_dir=folder / "mini",
    num_passages=200,
    num_dev_questions_per_language=4,
    languages=LANGUAGES,
  )
  texts = [
    text
    for pair in read_training_pairs(folder / "mini/train_pairs.jsonl")
    for text in (
      pair.query,
      make_prompt(pair.positives[0], get_language(pair.language)),
    )
  ]
  tokenizer = train_tokenizer(texts, vocab_size=400, style="t5")
  tokenizer.save(folder / "t5_tokenizer")
  return folder


def _t5x(script, files, folder, *, num_devices=1, **bindings):
  bindings = {"TOKENIZER": str(folder / "t5_tokenizer"), **bindings}
  bindings |= {
    "network.T5Config.vocab_size": 512,
    "network.T5Config.emb_dim": 32,
    "network.T5Config.head_dim": 8,
    "network.T5Config.mlp_dim": 64,
  }
  return _run(
    [
      "-m",
      f"t5x.{script}",
      *(f"--gin_file=xqg_jax/gin_configs/t5x/{name}" for name in files),
      *(f"--gin.{name}={value!r}" for name, value in bindings.items()),
    ],
    num_devices=num_devices,
    # Away from the clone: gin finds the files in the installed package.
    folder=folder,
  )


def _train(folder, model_dir, **kwargs):
  return _t5x(
    "train",
    ["finetune.gin", "mt5_tiny.gin", "local.gin"],
    folder,
    **{
      "DATA_DIR": str(folder / "mini"),
      "MODEL_DIR": str(model_dir),
      "BATCH_SIZE": 16,
      "TASK_FEATURE_LENGTHS": {"inputs": 96, "targets": 32},
      **kwargs,
    },
  )


def _read_scalars(folder, tag):
  (path,) = folder.glob("events*")
  return {
    event.step: float(tf.make_ndarray(value.tensor))
    for event in tf.compat.v1.train.summary_iterator(str(path))
    for value in event.summary.value
    if value.tag == tag
  }


LOSS = "loss_per_nonpadding_target_token"


@pytest.fixture(scope="module")
def trained(collection):
  """A finished run, and what it said."""
  model_dir = collection / "generator"
  steps = {"TRAIN_STEPS": 60, "EVAL_PERIOD": 60, "STATS_PERIOD": 5}
  return model_dir, _train(collection, model_dir, **steps).stderr


@needs_t5x
@pytest.mark.slow
def test_fine_tuning_halves_the_loss_and_evaluates(trained):
  model_dir, said = trained
  losses = _read_scalars(model_dir / "train", LOSS)
  assert losses[5] > 4  # ln 512 = 6.2
  assert losses[60] < losses[5] / 2
  for language in LANGUAGES:
    name = f"local_generation_{language}"
    folder = model_dir / "inference_eval" / name
    assert 0 <= _read_scalars(folder, "eval/chrf")[60] <= 100
    assert 0 <= _read_scalars(folder, "eval/right_script")[60] <= 1
  assert "prompts have more than 96 tokens" in said


@needs_t5x
@pytest.mark.slow
def test_eight_devices_in_pairs_learn_the_same(collection, trained):
  model_dir = collection / "partitioned"
  _train(
    collection,
    model_dir,
    num_devices=8,
    # T5X takes NUM_PARTITIONS on TPUs and GPUs, and on CPUs only this.
    NUM_PARTITIONS=None,
    **{
      "partitioning.PjitPartitioner.model_parallel_submesh": (1, 2),
      "train.train_eval_dataset_cfg": None,
      "train.infer_eval_dataset_cfg": None,
    },
    TRAIN_STEPS=5,
    EVAL_PERIOD=5,
    STATS_PERIOD=5,
  )
  info = (model_dir / "model-info.txt").read_text()
  start = "Variable decoder/logits_dense/kernel "
  (line,) = [row for row in info.splitlines() if row.startswith(start)]
  assert line.endswith("partition spec (None, 'model')")
  mesh = _read_mesh(model_dir / "checkpoint_5/state")
  assert mesh == {"data": 4, "model": 2}
  expected = _read_scalars(trained[0] / "train", LOSS)
  found = _read_scalars(model_dir / "train", LOSS)
  np.testing.assert_allclose(found[5], expected[5], rtol=1e-4)


def _read_mesh(folder):
  """The mesh of all arrays of a checkpoint, as Orbax has recorded it."""
  shardings = json.loads((folder / "_sharding").read_text()).values()
  meshes = {
    tuple(zip(found["axis_names"], found["shape"], strict=True))
    for found in map(json.loads, shardings)
    if found["sharding_type"] == "NamedSharding"
  }
  (mesh,) = meshes
  return dict(mesh)


def _write_few(collection):
  passages = list(read_passages(collection / "mini/passages.tsv"))[:5]
  path = collection / "few.tsv"
  with open(path, "w", encoding="utf-8") as file:
    write_passages(file, passages)
  return path


@needs_t5x
@pytest.mark.slow
def test_infer_writes_the_released_form(collection, trained):
  path = _write_few(collection)
  result = _t5x(
    "infer",
    ["infer.gin", "mt5_tiny.gin"],
    collection,
    PASSAGES=str(path),
    CHECKPOINT_PATH=str(trained[0] / "checkpoint_60"),
    INFER_OUTPUT_DIR=str(collection / "generated"),
    LANGUAGES=LANGUAGES,
    NUM_QUERIES=3,
    BATCH_SIZE=4,
    TASK_FEATURE_LENGTHS={"inputs": 96, "targets": 32},
    **{"infer.checkpoint_period": 2},
  )
  assert "local_inference: 10 of 10 prompts have more than" in result.stderr
  rows = [row for _, row in read_generated_queries(collection / "generated")]
  assert [row.passage_id for row in rows] == [
    passage.passage_id for passage in read_passages(path)
  ]
  for row in rows:
    assert {code: len(q) for code, q in row.queries.items()} == {
      "fi": 3,
      "ru": 3,
    }
  assert any(len(set(row.queries["fi"])) > 1 for row in rows)


@needs_t5x
@pytest.mark.slow
def test_our_logits_are_t5x_s_own(collection, trained):
  from t5x.examples.t5 import network

  step = trained[0] / "checkpoint_60"
  restored = ocp.PyTreeCheckpointer().restore(step / "state")
  reference = network.Transformer(
    network.T5Config(
      vocab_size=512,
      dtype="float32",
      emb_dim=32,
      num_heads=4,
      num_encoder_layers=2,
      num_decoder_layers=2,
      head_dim=8,
      mlp_dim=64,
      mlp_activations=("gelu", "linear"),
      dropout_rate=0.0,
    )
  )
  ours = load_query_generator(step, tokenizer_path=collection / "t5_tokenizer")
  rng = np.random.default_rng(0)
  inputs, targets = (
    np.where(np.arange(n) < rng.integers(3, n + 1, (4, 1)), ids, 0).astype("i4")
    for n in (20, 12)
    for ids in [rng.integers(2, 400, (4, n))]
  )
  shifted = np.roll(targets, 1, axis=1)
  shifted[:, 0] = 0
  expected = reference.apply(
    {"params": restored["target"]},
    inputs,
    shifted,
    targets,
    enable_dropout=False,
  )
  found = ours.module.apply(
    {"params": ours.params}, *map(jnp.asarray, (inputs, shifted, targets))
  )
  is_text = targets > 0
  assert np.abs(expected).max() > 1
  np.testing.assert_allclose(
    np.asarray(found)[is_text], np.asarray(expected)[is_text], atol=1e-5
  )


@needs_t5x
@pytest.mark.slow
def test_xqg_generate_takes_the_checkpoint_folder(collection, trained):
  manifest = generate(
    checkpoint_path=trained[0],
    tokenizer_path=collection / "t5_tokenizer",
    passages=_write_few(collection),
    output_dir=collection / "by_xqg",
    languages=LANGUAGES,
    num_queries=2,
    max_input_length=96,
    max_query_length=16,
    batch_size=4,
    force=True,  # hardly trained
  )
  assert manifest["num_queries"] == 5 * 2 * 2
  rows = list(read_generated_queries(collection / "by_xqg"))
  assert len(rows) == 5


# ----------------------------------------------------------------------- hooks


def test_chunks_become_one_file(collection, tmp_path):
  vocabulary = HuggingFaceVocabulary(str(collection / "t5_tokenizer"))
  prompts = {
    "passage_id": ["p1", "p1", "p2", "p2"],
    "title": ["Como", "Como", "", ""],
    "text": ["A lake.", "A lake.", "A hill.", "A hill."],
    "language": ["fi", "ru", "fi", "ru"],
  }
  texts = [[f"Missä {i} {j}?" for j in range(2)] for i in range(4)]
  tokens = np.zeros((4, 2, 40), np.int32)
  for i, row in enumerate(texts):
    for j, text in enumerate(row):
      ids = [*vocabulary.encode(text), 1]
      tokens[i, j, : len(ids)] = ids
  name = "local_inference-predict.jsonl-00001-of-00003"
  dataset = tf.data.Dataset.from_tensor_slices(prompts)
  # The second passage's languages lie in two chunks.
  for chunk, (start, end) in enumerate([(0, 3), (3, 4)]):
    t5x_hooks.write_queries(
      f"{tmp_path}/{name}-chunk{chunk:05}",
      (list(tokens[start:end]), {}),
      dataset.skip(start).take(end - start),
      "predict",
      vocabulary,
    )
  t5x_hooks.merge_queries(str(tmp_path), name, str(tmp_path), 7)
  path = tmp_path / "part-00001-of-00003.jsonl.gz"
  rows = [row for _, row in read_generated_queries(path)]
  assert [(row.passage_id, row.queries) for row in rows] == [
    ("p1", {"fi": tuple(texts[0]), "ru": tuple(texts[1])}),
    ("p2", {"fi": tuple(texts[2]), "ru": tuple(texts[3])}),
  ]


def test_hooks_refuse_what_gives_no_queries(tmp_path):
  none = tf.data.Dataset.from_tensor_slices([])
  with pytest.raises(InputError, match="gives no queries"):
    t5x_hooks.write_queries("x", ([], {}), none, "score")
  with pytest.raises(InputError, match="no queries were written"):
    t5x_hooks.merge_queries(str(tmp_path), "a-00000-of-00001", "none", None)
