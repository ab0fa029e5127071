"""Folders of sentence-transformers, read and written, against the package."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest

from xqg_jax import checkpoints
from xqg_jax.encoding.texts import encode_texts
from xqg_jax.errors import InputError
from xqg_jax.io.files import read_json, write_json
from xqg_jax.models.dual_encoder.config import (
  DualEncoderConfig,
  ProjectionConfig,
)
from xqg_jax.models.encoder_families import encoder_config_to_hf
from xqg_jax.text.tokenizer_training import train_tokenizer

SENTENCES = [
  "the river runs past the old mill",
  "a mill",
  "old old old river past a mill and the mill past the river",
  "runs",
]
# Longer than 20 tokens, so that it is cut.
LONG = " ".join(SENTENCES * 4)
BERT_SHAPE = {
  "vocab_size": 60,
  "hidden_size": 16,
  "num_hidden_layers": 2,
  "num_attention_heads": 2,
  "intermediate_size": 24,
  "max_position_embeddings": 40,
  "pad_token_id": 0,
  "initializer_range": 0.3,
}
T5_SHAPE = {
  "vocab_size": 60,
  "d_model": 16,
  "d_kv": 6,
  "num_heads": 2,
  "d_ff": 24,
  "num_layers": 2,
  "initializer_factor": 1.5,
}


@dataclasses.dataclass(frozen=True)
class Case:
  """A model of sentence-transformers."""

  kind: str
  pooling: str
  normalize: bool
  projection: ProjectionConfig | None = None
  prompts: bool = False
  max_seq_length: int | None = None

  @property
  def config(self) -> DualEncoderConfig:
    """What we should read from it."""
    length = self.max_seq_length or (40 if self.kind == "Bert" else 39)
    return DualEncoderConfig(
      pooling=self.pooling,
      normalize=self.normalize,
      projection=self.projection,
      query_prefix="the query: " if self.prompts else "",
      passage_prefix="a passage: " if self.prompts else "",
      query_length=length,
      passage_length=length,
    )


CASES = {
  "e5": Case("Bert", "mean", True, prompts=True, max_seq_length=20),
  "labse": Case(
    "Bert", "cls", True, ProjectionConfig(size=16, activation="tanh")
  ),
  "xlm-r": Case("XLMRoberta", "cls", False, max_seq_length=20),
  "sentence-mt5": Case(
    "MT5",
    "mean",
    True,
    ProjectionConfig(size=12, use_bias=False),
    prompts=True,
    max_seq_length=20,
  ),
}


@pytest.fixture(scope="module")
def packages():
  """sentence-transformers; imported once, which is slow."""
  return pytest.importorskip(
    "sentence_transformers", reason="sentence-transformers is the reference"
  )


def make_model(case: Case, folder: pathlib.Path, packages):
  """A random model of the package, saved as the package saves it."""
  import torch
  import transformers

  style = "t5" if case.kind == "MT5" else "bert"
  train_tokenizer(SENTENCES, vocab_size=60, style=style).save(folder / "raw")
  shape = T5_SHAPE if case.kind == "MT5" else BERT_SHAPE
  config = getattr(transformers, f"{case.kind}Config")(**shape)
  suffix = "EncoderModel" if case.kind == "MT5" else "Model"
  torch.manual_seed(0)
  getattr(transformers, case.kind + suffix)(config).save_pretrained(
    folder / "raw"
  )
  st = packages.sentence_transformer.modules
  base = packages.base.modules
  length = {"max_seq_length": case.max_seq_length}
  modules = [
    base.Transformer(str(folder / "raw"), **length),
    st.Pooling(16, case.pooling),
  ]
  if case.projection is not None:
    activation = {"identity": torch.nn.Identity(), "tanh": torch.nn.Tanh()}
    dense = base.Dense(
      16,
      case.projection.size,
      bias=case.projection.use_bias,
      activation_function=activation[case.projection.activation],
    )
    modules.append(dense)
  modules += [base.Normalize()] * case.normalize
  prompts = {"query": "the query: ", "document": "a passage: "}
  model = packages.SentenceTransformer(
    modules=modules, prompts=prompts if case.prompts else None, device="cpu"
  )
  model.save(str(folder / "model"))
  return model


def embed_by_package(model, texts):
  """Vectors of the texts as queries and as passages."""
  return model.encode_query(texts), model.encode_document(texts)


def embed_by_us(encoder, texts):
  config = encoder.config
  return tuple(
    encode_texts(
      encoder,
      [prefix + text for text in texts],
      side=side,
      max_length=length,
      row_lengths=(64,),
    )
    for side, prefix, length in (
      ("query", config.query_prefix, config.query_length),
      ("passage", config.passage_prefix, config.passage_length),
    )
  )


def assert_same_vectors(encoder, model, texts):
  for found, expected in zip(
    embed_by_us(encoder, texts), embed_by_package(model, texts), strict=True
  ):
    np.testing.assert_allclose(found, expected, atol=1e-5)


def read_all_tensors(folder):
  """Bytes of every tensor of every module; a pooler is no part of ours."""
  return {
    (path.parent.name if path.parent != folder else "", name): value.tobytes()
    for path in folder.rglob("model.safetensors")
    for name, value in checkpoints.read_hf_tensors(path.parent).items()
    if not name.startswith("pooler.")
  }


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_vectors_equal_the_packages_both_ways(name, tmp_path, packages):
  case = CASES[name]
  model = make_model(case, tmp_path, packages)
  encoder = checkpoints.load_dual_encoder(tmp_path / "model")
  assert encoder.config == case.config
  assert encoder.dim == model.get_embedding_dimension()
  texts = [*SENTENCES, LONG] if case.max_seq_length else SENTENCES
  assert_same_vectors(encoder, model, texts)
  out = tmp_path / "out"
  checkpoints.export_dual_encoder(out, encoder)
  again = packages.SentenceTransformer(str(out), device="cpu")
  assert_same_vectors(encoder, again, texts)
  assert again.similarity_fn_name == ("cosine" if case.normalize else "dot")
  tensors = read_all_tensors(tmp_path / "model")
  assert read_all_tensors(out) == tensors
  assert len(tensors) > 10
  # Without our own file theirs say the same.
  (out / "dual_encoder.json").unlink()
  read_again = checkpoints.load_dual_encoder(out)
  assert read_again.config == encoder.config
  assert read_again.fingerprint == encoder.fingerprint


@pytest.mark.slow
def test_two_lengths_and_separate_sides_open_in_the_package(tmp_path, packages):
  case = dataclasses.replace(CASES["labse"], prompts=True)
  make_model(case, tmp_path, packages)
  encoder = checkpoints.load_dual_encoder(tmp_path / "model")
  config = dataclasses.replace(
    encoder.config, share_encoders=False, query_length=10, passage_length=30
  )
  params = {
    "query_encoder": encoder.params,
    "passage_encoder": jax.tree.map(lambda x: x * 1.1, encoder.params),
  }
  separate = dataclasses.replace(encoder, config=config, params=params)
  out = tmp_path / "out"
  checkpoints.export_dual_encoder(out, separate)
  query, passage = (
    packages.SentenceTransformer(str(out / name), device="cpu")
    for name in ("query_encoder", "passage_encoder")
  )
  texts = [*SENTENCES, LONG]
  found = embed_by_us(separate, texts)
  np.testing.assert_allclose(found[0], query.encode_query(texts), atol=1e-5)
  expected = passage.encode_document(texts)
  np.testing.assert_allclose(found[1], expected, atol=1e-5)
  assert np.abs(expected - query.encode_document(texts)).max() > 0.01
  assert checkpoints.load_dual_encoder(out).config == config


@pytest.mark.slow
def test_transformers_open_what_we_write(tmp_path, packages):
  import torch
  import transformers

  for name, opener in (
    ("xlm-r", transformers.AutoModel),
    ("sentence-mt5", transformers.AutoModelForTextEncoding),
  ):
    folder = tmp_path / name
    make_model(CASES[name], folder, packages)
    encoder = checkpoints.load_dual_encoder(folder / "model")
    checkpoints.export_dual_encoder(folder / "out", encoder)
    model, report = opener.from_pretrained(
      folder / "out", output_loading_info=True
    )
    missing = [k for k in report["missing_keys"] if "pooler" not in k]
    assert not missing
    assert not report["unexpected_keys"]
    words = transformers.AutoTokenizer.from_pretrained(folder / "out")
    texts = [encoder.format_query(text) for text in SENTENCES]
    (text,) = [words(t, return_tensors="pt").input_ids for t in texts[:1]]
    with torch.no_grad():
      hidden = model.eval()(input_ids=text).last_hidden_state
    rows = encoder.tokenizer.encode_batch(texts[:1], max_length=40)[0][None]
    np.testing.assert_array_equal(rows, text.numpy())
    found = jax.jit(encoder.module.apply)(
      {"params": encoder.params["encoder"]},
      rows,
      np.ones_like(rows),
      np.arange(rows.shape[1], dtype=np.int32)[None],
    )
    np.testing.assert_allclose(found, hidden.numpy(), atol=1e-5)


# ---------------------------------------------------------- without the package


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
  """A folder of ours that others wrote: without `dual_encoder.json`."""
  from tests.helpers.tiny_dual_encoder import CONFIG, make_encoder

  config = dataclasses.replace(
    CONFIG, projection=ProjectionConfig(size=12, activation="tanh")
  )
  checkpoints.export_dual_encoder(tmp_path, make_encoder(config))
  (tmp_path / "dual_encoder.json").unlink()
  return tmp_path


def change_json(path, **changes):
  values = read_json(path) | changes
  write_json(path, {k: v for k, v in values.items() if v is not None})


def test_a_folder_as_version_6_writes_it(folder):
  """Type strings, keys and files of sentence-transformers 6.2, by hand."""
  expected = checkpoints.load_dual_encoder(folder)
  package = "sentence_transformers"
  types = [
    f"{package}.base.modules.transformer.Transformer",
    f"{package}.sentence_transformer.modules.pooling.Pooling",
    f"{package}.base.modules.dense.Dense",
    f"{package}.base.modules.normalize.Normalize",
  ]
  modules = read_json(folder / "modules.json")
  for module, kind in zip(modules, types, strict=True):
    module["type"] = kind
  write_json(folder / "modules.json", modules)
  write_json(
    folder / "1_Pooling" / "config.json",
    {
      "embedding_dimension": 16,
      "pooling_mode": "mean",
      "include_prompt": True,
    },
  )
  change_json(
    folder / "2_Dense" / "config.json",
    activation_function="torch.nn.modules.activation.Tanh",
    module_input_name="sentence_embedding",
    module_output_name="sentence_embedding",
  )
  write_json(
    folder / "sentence_bert_config.json",
    {"transformer_task": "feature-extraction"},
  )
  change_json(folder / "tokenizer_config.json", model_max_length=33)
  found = checkpoints.load_dual_encoder(folder)
  assert found.config == dataclasses.replace(
    expected.config, query_length=33, passage_length=33
  )
  assert found.fingerprint == expected.fingerprint


def test_prompts_by_their_other_names(folder):
  path = folder / "config_sentence_transformers.json"
  for prompts, expected in (
    ({"query": "q", "corpus": "c", "passage": "p"}, ("q", "p")),
    ({"document": "d", "passage": "p"}, ("", "d")),
    ({"query": None, "document": "", "corpus": "c"}, ("", "c")),
  ):
    write_json(path, {"prompts": prompts})
    config = checkpoints.load_dual_encoder(folder).config
    assert (config.query_prefix, config.passage_prefix) == expected


def test_lengths_stay_within_the_positions(folder):
  path = folder / "sentence_bert_config.json"
  for values, expected in (
    ({"max_seq_length": 50}, (50, 50)),
    ({"max_seq_length": 512}, (96, 96)),
    ({}, (96, 96)),
    ({"max_seq_length": 50, "query_length": 20}, (20, 50)),
  ):
    write_json(path, values)
    config = checkpoints.load_dual_encoder(folder).config
    assert (config.query_length, config.passage_length) == expected


BAD = {
  "the modules are Transformer, Dense, Pooling": (
    "modules.json",
    lambda m: [m[0], m[2], m[1]],
  ),
  "the modules are Transformer, Pooling, Dropout": (
    "modules.json",
    lambda m: [*m[:2], {"path": "", "type": "a.Dropout"}],
  ),
  "activation_function is torch.nn.ReLU": (
    "2_Dense/config.json",
    lambda v: v | {"activation_function": "torch.nn.ReLU"},
  ),
  "use_residual is True": (
    "2_Dense/config.json",
    lambda v: v | {"use_residual": True},
  ),
  "module_input_name is 'token_embeddings'": (
    "2_Dense/config.json",
    lambda v: v | {"module_input_name": "token_embeddings"},
  ),
  r"linear.weight has shape \(12, 16\), expected \(8, 16\)": (
    "2_Dense/config.json",
    lambda v: v | {"out_features": 8},
  ),
  "tensor linear.bias has no place": (
    "2_Dense/config.json",
    lambda v: v | {"bias": False},
  ),
  "the pooling is pooling_mode_lasttoken": (
    "1_Pooling/config.json",
    lambda v: {"pooling_mode_lasttoken": True},
  ),
  "the pooling is cls and mean": (
    "1_Pooling/config.json",
    lambda v: v | {"pooling_mode_cls_token": True},
  ),
  "the pooling is max": (
    "1_Pooling/config.json",
    lambda v: {"pooling_mode": "max", "embedding_dimension": 16},
  ),
  "include_prompt is false": (
    "1_Pooling/config.json",
    lambda v: v | {"include_prompt": False},
  ),
  "do_lower_case is true": (
    "sentence_bert_config.json",
    lambda v: v | {"do_lower_case": True},
  ),
}


@pytest.mark.parametrize("message", BAD)
def test_what_we_lack_is_one_clear_line(folder, message):
  file, change = BAD[message]
  write_json(folder / file, change(read_json(folder / file)))
  with pytest.raises(InputError, match=message) as error:
    checkpoints.load_dual_encoder(folder)
  assert str((folder / file).parent) in str(error.value)
  assert "\n" not in str(error.value)


def test_lower_casing_in_the_tokenizer_is_enough(folder):
  path = folder / "tokenizer.json"
  values = json.loads(path.read_text())
  values["normalizer"]["normalizers"].append({"type": "Lowercase"})
  path.write_text(json.dumps(values))
  change_json(folder / "sentence_bert_config.json", do_lower_case=True)
  assert checkpoints.load_dual_encoder(folder).dim == 12


def test_a_dense_without_a_weight_names_it(folder):
  path = folder / "2_Dense" / "model.safetensors"
  tensors = dict(checkpoints.read_hf_tensors(path.parent))
  bias = {"linear.bias": np.array(tensors["linear.bias"])}
  checkpoints.write_safetensors(path, bias)
  with pytest.raises(InputError, match=r"no tensor linear\.weight") as error:
    checkpoints.load_dual_encoder(folder)
  assert str(path) in str(error.value)


def test_a_config_keeps_the_projection_of_the_weights(folder):
  given = DualEncoderConfig(pooling="cls", normalize=False, passage_length=64)
  encoder = checkpoints.load_dual_encoder(folder, config=given)
  projection = ProjectionConfig(size=12, activation="tanh")
  assert encoder.config == dataclasses.replace(given, projection=projection)
  other = dataclasses.replace(given, projection=ProjectionConfig(size=7))
  with pytest.raises(InputError, match=r"projection is .*size=7.* in this"):
    checkpoints.load_dual_encoder(folder, config=other)


def test_the_encoders_configuration_alone():
  from tests.helpers.tiny_t5 import SHAPES
  from xqg_jax.models.t5.network import T5Config

  values = {"model_type": "mt5", "vocab_size": 60, **SHAPES[0]}
  values |= {"feed_forward_proj": "gated-gelu"}
  written = encoder_config_to_hf(T5Config.from_hf(values))
  assert written["architectures"] == ["MT5EncoderModel"]
  assert not written["is_encoder_decoder"]
  assert T5Config.from_hf(written) == T5Config.from_hf(values)
