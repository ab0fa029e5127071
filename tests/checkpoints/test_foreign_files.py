"""Checkpoints of other people: old names, tied tables, heads, odd tokens."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from tests.helpers import tiny_t5
from xqg_jax import checkpoints
from xqg_jax.checkpoints.hugging_face.tensors import write_safetensors
from xqg_jax.encoding.texts import encode_texts
from xqg_jax.errors import InputError
from xqg_jax.models.bert import encoder as bert
from xqg_jax.models.dual_encoder.config import DualEncoderConfig
from xqg_jax.models.parameters import init_params
from xqg_jax.models.t5 import network as t5
from xqg_jax.models.t5.conversion import STACKS
from xqg_jax.text.tokenizer import load_tokenizer
from xqg_jax.text.tokenizer_training import train_tokenizer

BERT = bert.BertConfig(
  vocab_size=40,
  hidden_size=8,
  num_hidden_layers=1,
  num_attention_heads=2,
  intermediate_size=12,
  max_position_embeddings=20,
)
T5 = t5.T5Config(
  vocab_size=40,
  emb_dim=8,
  num_heads=2,
  head_dim=4,
  mlp_dim=12,
  num_encoder_layers=1,
  num_decoder_layers=1,
)
TABLE, HEAD = "shared.weight", "lm_head.weight"
COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")


def _params(module):
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: rng.normal(size=x.shape).astype(np.float32),
    init_params(module, jax.random.key(0)),
  )


BERT_PARAMS = _params(bert.BertEncoder(BERT))
BERT_TENSORS = bert.params_to_hf(BERT_PARAMS, BERT)
T5_PARAMS = _params(t5.T5(config=T5))
T5_TENSORS = t5.params_to_hf(T5_PARAMS, T5)


def _assert_equal(found, expected):
  jax.tree.map(np.testing.assert_array_equal, found, expected)


# ------------------------------------------------------------------- tensors


def _rename(tensors, *pairs, prefix=""):
  renamed = {}
  for name, value in tensors.items():
    for old, new in pairs:
      name = name.replace(old, new)
    renamed[prefix + name] = value
  return renamed


OLD = (("LayerNorm.weight", "LayerNorm.gamma"), ("Norm.bias", "Norm.beta"))


@pytest.mark.parametrize("pairs", [(), OLD, OLD[:1]])
@pytest.mark.parametrize(
  "prefix",
  ["", "bert.", "question_encoder.bert_model.", "ctx_encoder.bert_model."],
)
def test_names_of_bert(prefix, pairs):
  tensors = _rename(BERT_TENSORS, *pairs, prefix=prefix)
  tensors |= {
    "classifier.weight": np.zeros((2, 8)),
    "qa_outputs.bias": np.zeros(2),
    "cls.predictions.transform.LayerNorm.gamma": np.zeros(8),
  }
  if prefix:
    tensors["score.weight"] = np.zeros((1, 8))
  _assert_equal(bert.params_from_hf(tensors, BERT), BERT_PARAMS)


def test_one_tensor_under_two_names_and_one_too_many():
  twice = {**BERT_TENSORS, "embeddings.LayerNorm.gamma": np.zeros(8)}
  with pytest.raises(InputError, match="are the same one"):
    bert.params_from_hf(twice, BERT)
  more = {**BERT_TENSORS, "encoder.layer.1.output.dense.bias": np.zeros(8)}
  with pytest.raises(InputError, match="has no place in a BERT"):
    bert.params_from_hf(more, BERT)


def test_a_dpr_configuration_is_berts():
  values = {**BERT.to_hf(), "model_type": "dpr", "projection_dim": 0}
  assert bert.BertConfig.from_hf(values, "config.json") == BERT
  with pytest.raises(InputError, match="projection_dim is 128"):
    bert.BertConfig.from_hf({**values, "projection_dim": 128}, "config.json")


@pytest.mark.parametrize("names", [COPIES, COPIES[:1], COPIES[1:], (TABLE,)])
@pytest.mark.parametrize("stacks", [STACKS, ("encoder",)])
def test_names_of_the_table_of_t5(names, stacks):
  tensors = {k: v for k, v in T5_TENSORS.items() if k != TABLE}
  tensors |= dict.fromkeys(names, T5_TENSORS[TABLE])
  expected = {"token_embedder": T5_PARAMS["token_embedder"]}
  expected |= {stack: T5_PARAMS[stack] for stack in stacks}
  _assert_equal(t5.params_from_hf(tensors, T5, stacks=stacks), expected)


def test_a_tied_table_may_be_the_output_layers_alone():
  tensors = {k: v for k, v in T5_TENSORS.items() if k != TABLE}
  found = t5.params_from_hf(tensors, T5)
  table = found["token_embedder"]["embedding"]
  np.testing.assert_array_equal(table, T5_TENSORS[HEAD])
  np.testing.assert_array_equal(
    found["decoder"]["logits_dense"]["kernel"], table.T
  )


def test_no_table_and_tables_that_differ():
  tensors = {k: v for k, v in T5_TENSORS.items() if k not in (TABLE, HEAD)}
  with pytest.raises(InputError, match=r"no tensor shared\.weight"):
    t5.params_from_hf(tensors, T5)
  for name in COPIES:
    differs = {**T5_TENSORS, name: T5_TENSORS[TABLE] * 2}
    with pytest.raises(InputError, match=f"{TABLE} and {name} differ"):
      t5.params_from_hf(differs, T5)


# -------------------------------------------------------------- special tokens


@pytest.mark.parametrize(
  ("values", "expected"),
  [
    ({}, (0, (1,), 0)),
    ({"decoder_start_token_id": 2}, (0, (1,), 2)),
    ({"decoder_start_token_id": None}, (0, (1,), 0)),
    ({"eos_token_id": [1, 5]}, (0, (1, 5), 0)),
    ({"pad_token_id": None}, (0, (1,), 0)),
    ({"pad_token_id": 3}, (3, (1,), 0)),
  ],
)
def test_token_ids_are_read_and_written(values, expected):
  config = t5.T5Config.from_hf({**T5.to_hf(), **values})
  assert (config.pad_id, config.end_ids, config.first_input) == expected
  assert t5.T5Config.from_hf(config.to_hf()) == config


@pytest.mark.parametrize(
  "values",
  [
    {"pad_token_id": True},
    {"pad_token_id": "0"},
    {"eos_token_id": []},
    {"eos_token_id": [1, None]},
    {"eos_token_id": 40},
    {"decoder_start_token_id": [0, 1]},
    {"decoder_start_token_id": -1},
  ],
)
def test_token_ids_that_are_none(values):
  with pytest.raises(InputError, match=f"{next(iter(values))} is "):
    t5.T5Config.from_hf({**T5.to_hf(), **values}, "config.json")


def _write_t5(folder: pathlib.Path, **values) -> pathlib.Path:
  tokenizer = train_tokenizer(["the old mill"], vocab_size=40, style="t5")
  checkpoints.save_model_files(
    folder, model_config_hf=T5.to_hf() | values, tokenizer=tokenizer
  )
  write_safetensors(folder / "model.safetensors", T5_TENSORS)
  return folder


def test_padding_of_null_is_the_tokenizers_and_old_prints_stay(tmp_path):
  plain = checkpoints.load_query_generator(_write_t5(tmp_path / "plain"))
  null = _write_t5(tmp_path / "null", pad_token_id=None)
  loaded = checkpoints.load_query_generator(null)
  assert loaded.config.pad_id == plain.tokenizer.pad_id
  assert loaded.config.first_input == 0
  other = _write_t5(tmp_path / "other", decoder_start_token_id=2)
  started = checkpoints.load_query_generator(other)
  assert started.config.first_input == 2
  assert started.fingerprint != plain.fingerprint == loaded.fingerprint


def test_the_configuration_of_generation_goes_first(tmp_path):
  folder = _write_t5(tmp_path / "model")
  values = {"decoder_start_token_id": 3, "eos_token_id": [1, 6]}
  (folder / "generation_config.json").write_text(json.dumps(values))
  config = checkpoints.load_query_generator(folder).config
  assert (config.first_input, config.end_ids) == (3, (1, 6))


# ------------------------------------------------------------------ tokenizers


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta", "mt5"])
def test_a_folder_without_a_vocabulary_has_no_tokenizer(tmp_path, kind):
  (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
  with pytest.raises(InputError, match="no tokenizer"):
    load_tokenizer(tmp_path)


def test_a_tokenizer_of_special_tokens_alone_is_none(tmp_path):
  train_tokenizer(["the old mill"], vocab_size=40, style="bert").save(tmp_path)
  values = json.loads((tmp_path / "tokenizer.json").read_text())
  special = {token["content"] for token in values["added_tokens"]}
  vocab = values["model"]["vocab"]
  values["model"]["vocab"] = [row for row in vocab if row[0] in special]
  (tmp_path / "tokenizer.json").write_text(json.dumps(values))
  with pytest.raises(InputError, match="special tokens alone"):
    load_tokenizer(tmp_path)


def test_a_sentencepiece_model_alone_gives_its_own_tokens(shared_dir, tmp_path):
  case = shared_dir / "cases" / "10-only-a-sentencepiece-model" / "mt5_like"
  shutil.copy(case / "spiece.model", tmp_path)
  assert load_tokenizer(tmp_path).vocab_size == 55


# ------------------------------------------------- folders and their vectors

RIVER = "Where does the river Tana begin?"
# By sentence-transformers 6.2.0.
NORMALIZED = (-0.0262, -0.2134, 0.0083, -0.1303)
WHOLE = (-0.1182, -0.9634, 0.0373, -0.5879)


@pytest.mark.parametrize(
  ("folder", "expected"),
  [
    ("06-bert-gamma-beta/bert_old", NORMALIZED),
    ("06-bert-gamma-beta/bert_old_no_prefix", NORMALIZED),
    ("24-st-folder-of-version-1/model", WHOLE),
    ("25-heads-and-dpr/classifier", NORMALIZED),
    ("25-heads-and-dpr/question_answering", NORMALIZED),
    ("25-heads-and-dpr/dpr_question", WHOLE),
  ],
)
def test_vectors_of_the_cases(shared_dir, folder, expected):
  config = None
  if "dpr_question" in folder:  # the same weights, pooled as the others
    config = DualEncoderConfig(
      pooling="mean", normalize=False, query_length=40, passage_length=40
    )
  path = shared_dir / "cases" / folder
  encoder = checkpoints.load_dual_encoder(path, config=config)
  (vector,) = encode_texts(encoder, [RIVER], side="query", max_length=40)
  np.testing.assert_allclose(vector[:4], expected, atol=6e-5)


def test_vectors_that_are_cut_are_refused(shared_dir):
  path = shared_dir / "cases" / "23-st-truncate-dim" / "truncated"
  for config in (None, DualEncoderConfig(pooling="mean", normalize=True)):
    with pytest.raises(InputError, match="truncate_dim is 4"):
      checkpoints.load_dual_encoder(path, config=config)


def test_the_folder_of_a_transformer_within_a_folder(tmp_path):
  """As the first versions of sentence-transformers wrote."""
  tokenizer = train_tokenizer(["the old mill"], vocab_size=40, style="bert")
  whole = tmp_path / "whole"
  checkpoints.save_model_files(
    whole, model_config_hf=BERT.to_hf(), tokenizer=tokenizer
  )
  write_safetensors(whole / "model.safetensors", BERT_TENSORS)
  config = DualEncoderConfig(
    pooling="cls", normalize=False, query_length=20, passage_length=20
  )
  expected = checkpoints.load_dual_encoder(whole, config=config)
  old = tmp_path / "old"
  shutil.copytree(whole, old / "0_BERT")
  (old / "1_Pooling").mkdir()
  pooling = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
  (old / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
  modules = [
    {"idx": i, "path": path, "type": f"sentence_transformers.models.{kind}"}
    for i, (path, kind) in enumerate(
      (("0_BERT", "Transformer"), ("1_Pooling", "Pooling"))
    )
  ]
  (old / "modules.json").write_text(json.dumps(modules))
  found = checkpoints.load_dual_encoder(old)
  assert found.config == config
  assert found.fingerprint == expected.fingerprint


# ------------------------------------------------------------- greedy queries


@pytest.mark.parametrize(
  "values", [{"decoder_start_token_id": 5}, {"eos_token_id": [1, 7, 9, 11]}]
)
def test_greedy_queries_are_those_of_transformers(values):
  torch = pytest.importorskip("torch", reason="torch is the reference")
  from xqg_jax.generation.decoding import decode
  from xqg_jax.generation.sampling import GREEDY, make_row_keys

  shape = {"d_model": 16, "d_kv": 5, "num_heads": 2, "d_ff": 24}
  model = tiny_t5.untie(tiny_t5.make_torch_model({**shape, "num_layers": 1}))
  prompts = tiny_t5.make_rows([3, 5, 8, 8], 8)
  module, params = tiny_t5.to_ours(model, **values)
  allowed = np.ones(module.config.vocab_size, bool)
  found, _ = decode(
    module,
    params,
    prompts,
    make_row_keys([*"abcd"], ["fi"] * 4, num_samples=1, seed=0),
    allowed,
    sampling=GREEDY,
    max_length=10,
  )
  with torch.no_grad():
    written = model.generate(
      torch.tensor(prompts).long(),
      attention_mask=torch.tensor(prompts != 0).long(),
      max_new_tokens=10,
      do_sample=False,
      pad_token_id=0,
      **values,
    ).numpy()[:, 1:]
  expected = np.zeros((4, 10), np.int32)
  expected[:, : written.shape[1]] = written
  np.testing.assert_array_equal(np.asarray(found).reshape(4, 10), expected)
