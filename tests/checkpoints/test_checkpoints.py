"""Model folders in and out, damaged ones, and the real e5."""

import dataclasses
import os
import pathlib
import struct
import sys

import flax.serialization
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from xqg_jax import checkpoints
from xqg_jax.data.questions import read_questions
from xqg_jax.errors import InputError
from xqg_jax.io.files import write_json
from xqg_jax.models.bert.encoder import BertConfig, BertEncoder, params_to_hf
from xqg_jax.models.dual_encoder.config import DualEncoderConfig
from xqg_jax.text.tokenizer_training import train_tokenizer

TOKENIZER = train_tokenizer(
  ["the river runs past the old mill"], vocab_size=40, style="bert"
)
MODEL = BertConfig(
  vocab_size=50,
  hidden_size=16,
  num_hidden_layers=2,
  num_attention_heads=2,
  intermediate_size=24,
  max_position_embeddings=130,
)
POOLING = DualEncoderConfig(
  pooling="mean", normalize=True, query_prefix="query: "
)
LAST = "encoder.layer.1.output.LayerNorm.bias"


def _random_tensors(config=MODEL, seed=0) -> dict[str, np.ndarray]:
  module, dummy = BertEncoder(config), jax.ShapeDtypeStruct((1, 1), int)
  shapes = jax.eval_shape(module.init, jax.random.key(0), *(dummy,) * 3)
  rng = np.random.default_rng(seed)
  params = jax.tree.map(
    lambda x: rng.normal(size=x.shape).astype(np.float32), shapes["params"]
  )
  return params_to_hf(params, config)


TENSORS = _random_tensors()


@pytest.fixture
def hf_folder(tmp_path) -> pathlib.Path:
  """A Hugging Face folder with random weights in one safetensors file."""
  return _write_folder(tmp_path / "hf", TENSORS)


def _write_folder(
  folder: pathlib.Path, tensors=None, config=MODEL
) -> pathlib.Path:
  checkpoints.save_model_files(
    folder, model_config_hf=config.to_hf(), tokenizer=TOKENIZER
  )
  if tensors is not None:
    checkpoints.write_safetensors(folder / "model.safetensors", tensors)
  return folder


def _load(folder, config=POOLING):
  return checkpoints.load_dual_encoder(folder, config=config)


def _assert_same(encoder, tensors=None, **tolerance):
  found = params_to_hf(encoder.params["encoder"], encoder.module.config)
  assert found.keys() == TENSORS.keys()
  for name, value in (tensors or TENSORS).items():
    if tolerance:
      np.testing.assert_allclose(found[name], value, **tolerance)
    else:
      assert found[name].tobytes() == value.tobytes(), name


# --------------------------------------------------------- Hugging Face in


def test_safetensors(hf_folder):
  encoder = _load(hf_folder)
  _assert_same(encoder)
  assert encoder.config == POOLING
  assert encoder.dim == 16
  leaves = jax.tree.leaves(encoder.params)
  assert {type(x).__name__ for x in leaves} == {"ArrayImpl"}


def test_prefixes_and_heads_are_passed_over(tmp_path):
  tensors = {f"bert.{name}": value for name, value in TENSORS.items()}
  heads = ("bert.pooler.dense.weight", "cls.predictions.bias")
  tensors |= {name: np.zeros((16, 16), np.float32) for name in heads}
  tensors["bert.embeddings.position_ids"] = np.arange(130)[None]
  _assert_same(_load(_write_folder(tmp_path, tensors)))


def test_sharded_safetensors(tmp_path):
  folder, weight_map = _write_folder(tmp_path), {}
  names = sorted(TENSORS)
  for number, part in enumerate((names[:10], names[10:]), start=1):
    file = f"model-0000{number}-of-00002.safetensors"
    checkpoints.write_safetensors(folder / file, {n: TENSORS[n] for n in part})
    weight_map |= dict.fromkeys(part, file)
  index = folder / "model.safetensors.index.json"
  write_json(index, {"metadata": {}, "weight_map": weight_map})
  _assert_same(_load(folder))
  (folder / "model-00002-of-00002.safetensors").unlink()
  with pytest.raises(InputError, match=r"00002\.safetensors: no such file"):
    _load(folder)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_files_become_float32(tmp_path, dtype):
  halves = {name: x.astype(dtype) for name, x in TENSORS.items()}
  encoder = _load(_write_folder(tmp_path, halves))
  _assert_same(encoder, {n: x.astype(np.float32) for n, x in halves.items()})


XLMR = dataclasses.replace(
  MODEL, model_type="xlm-roberta", type_vocab_size=1, pad_token_id=1
)


@pytest.mark.parametrize(
  ("prefix", "config"), [("bert", MODEL), ("roberta", XLMR)]
)
def test_flax_msgpack(tmp_path, prefix, config):
  def nested(name, value):
    *path, last = name.split(".")
    if last == "weight":
      table, norm = "_embeddings" in path[-1], "LayerNorm" in path
      last = "embedding" if table else "scale" if norm else "kernel"
    return (*path, last), value.T if last == "kernel" else value

  tensors = _random_tensors(config)
  flat = dict(nested(name, value) for name, value in tensors.items())
  tree = {prefix: flax.traverse_util.unflatten_dict(flat)}
  tree["lm_head"] = {"dense": {"kernel": np.zeros((16, 16), np.float32)}}
  folder = _write_folder(tmp_path, config=config)
  path = folder / "flax_model.msgpack"
  path.write_bytes(flax.serialization.msgpack_serialize(tree))
  _assert_same(_load(folder), tensors)
  path.write_bytes(path.read_bytes()[:-100])
  with pytest.raises(InputError, match=r"flax_model\.msgpack: not Flax"):
    _load(folder)


def test_pytorch_file(tmp_path):
  torch = pytest.importorskip("torch", reason="writes a PyTorch file")
  folder = _write_folder(tmp_path)
  path = folder / "pytorch_model.bin"
  for is_zip in (True, False):  # False: as torch wrote before 1.6.

    def save(content, is_zip=is_zip):
      torch.save(content, path, _use_new_zipfile_serialization=is_zip)

    tensors = {n: torch.tensor(x) for n, x in TENSORS.items()}
    tensors[LAST] = torch.nn.Parameter(tensors[LAST])
    save(tensors)
    _assert_same(_load(folder))
    data = path.read_bytes()
    for size in (len(data) - 4, len(data) // 2, 10, 0):
      path.write_bytes(data[:size])
      _assert_is_no_pytorch_file(folder)
    for other in (pathlib.Path("a"), {"b": torch.ones(2)}):
      save({"weight": other})
      _assert_is_no_pytorch_file(folder)


def _assert_is_no_pytorch_file(folder):
  expected = r"pytorch_model\.bin: cut off, or not a PyTorch file of plain "
  with pytest.raises(InputError, match=expected) as error:
    _load(folder)
  assert len(str(error.value).removeprefix(str(folder))) < 200


def test_a_pytorch_file_without_torch_is_an_input_error(tmp_path, monkeypatch):
  folder = _write_folder(tmp_path)
  (folder / "pytorch_model.bin").write_bytes(b"PK")
  monkeypatch.setitem(sys.modules, "torch", None)
  with pytest.raises(InputError, match=r"bin: reading a PyTorch .*torch; run"):
    checkpoints.read_hf_tensors(folder)
  with pytest.raises(InputError, match=r"`pip install 'xqg_jax\[torch\]'`"):
    checkpoints.read_hf_tensors(folder)


def test_reading_is_lazy(hf_folder):
  tensors = checkpoints.read_hf_tensors(hf_folder)
  assert sorted(tensors) == sorted(TENSORS)
  value = tensors[LAST]
  assert isinstance(value.base, np.ndarray | np.memmap)
  assert not value.flags.writeable


def test_unknown_pooling_names_the_gin_files(hf_folder):
  with pytest.raises(InputError, match=r"gin_configs/encoders/e5\.gin") as e:
    _load(hf_folder, None)
  for name in ("mbert.gin", "xlmr.gin", "mt5.gin"):
    assert name in str(e.value)


# ----------------------------------------------------------- our own form


def _write_ours(folder, params, steps=(1,)):
  checkpoints.save_model_files(
    folder,
    model_config_hf=MODEL.to_hf(),
    tokenizer=TOKENIZER,
    dual_encoder_config=POOLING,
  )
  for step in steps:
    checkpoints.save_params(folder, step, params)
  return folder


def test_our_folder_gives_the_same_encoder(hf_folder, tmp_path):
  source = _load(hf_folder)
  ours = _write_ours(tmp_path / "ours", source.params, steps=(9, 10))
  for path in (ours, ours / "checkpoint_9", str(ours / "checkpoint_10")):
    encoder = checkpoints.load_dual_encoder(path)
    _assert_same(encoder)
    assert encoder.fingerprint == source.fingerprint
    assert encoder.config == POOLING
  assert [x.name for x in (ours / "checkpoint_9").iterdir()] == ["params"]


def test_steps_count_as_numbers_and_halves_do_not_count(tmp_path):
  for step in (9, 10, 100):
    checkpoints.save_params(tmp_path, step, {"a": np.zeros(2, np.float32)})
  (tmp_path / "checkpoint_200").mkdir()
  (tmp_path / ".checkpoint_300.partial" / "params").mkdir(parents=True)
  (tmp_path / "checkpoint_400.tmp" / "params").mkdir(parents=True)
  assert checkpoints.list_steps(tmp_path) == [9, 10, 100]
  assert checkpoints.find_checkpoint(tmp_path).name == "checkpoint_100"
  older = tmp_path / "checkpoint_9"
  assert checkpoints.find_checkpoint(older) == older
  assert checkpoints.find_checkpoint(tmp_path / "absent") is None
  with pytest.raises(InputError, match="checkpoint_9: this checkpoint is alr"):
    checkpoints.save_params(tmp_path, 9, {"a": np.zeros(2, np.float32)})


def test_a_failing_save_leaves_nothing(tmp_path):
  with pytest.raises(Exception, match=r".+"):
    checkpoints.save_params(tmp_path, 1, {"a": object()})
  assert not list(tmp_path.iterdir())


def test_sharded_params_load_on_one_device_and_sharded(tmp_path):
  mesh = jax.make_mesh((len(jax.devices()),), ("data",))
  spec = jax.sharding.PartitionSpec("data")
  sharding = jax.sharding.NamedSharding(mesh, spec)
  value = np.arange(32, dtype=np.float32).reshape(16, 2)
  step = checkpoints.save_params(
    tmp_path, 1, {"a": {"b": jax.device_put(value, sharding)}}
  )
  whole = checkpoints.load_params(step)["a"]["b"]
  parts = checkpoints.load_params(step, sharding=sharding)["a"]["b"]
  assert len(whole.devices()) == 1
  assert parts.sharding == sharding
  np.testing.assert_array_equal(whole, value)
  np.testing.assert_array_equal(parts, value)


def _with(params, layer, name, value):
  encoder = params["encoder"]
  layers = encoder | {layer: encoder[layer] | {name: value}}
  return params | {"encoder": layers}


def test_wrong_parameters_of_ours_are_input_errors(hf_folder, tmp_path):
  params = _load(hf_folder).params
  encoder = params["encoder"]
  norm = encoder["embeddings"]["layer_norm"]
  bad = {
    "embeddings/layer_norm/bias has values that are NaN": _with(
      params, "embeddings", "layer_norm", norm | {"bias": norm["bias"] * np.nan}
    ),
    r"no parameter encoder/layers_1/": {
      "encoder": {k: v for k, v in encoder.items() if k != "layers_1"}
    },
    "parameter head/kernel has no place": params
    | {"head": {"kernel": np.zeros(2, np.float32)}},
    r"embeddings/position has shape \(5, 16\), expected \(130, 16\)": _with(
      params, "embeddings", "position", np.zeros((5, 16), np.float32)
    ),
  }
  for number, (message, tree) in enumerate(bad.items()):
    folder = _write_ours(tmp_path / str(number), tree)
    with pytest.raises(InputError, match=message) as error:
      checkpoints.load_dual_encoder(folder)
    assert "checkpoint_1" in str(error.value)


def test_a_damaged_checkpoint_is_an_input_error(tmp_path):
  step = checkpoints.save_params(tmp_path, 1, {"a": np.zeros(2, np.float32)})
  (step / "params" / "_METADATA").write_text("{")
  with pytest.raises(InputError, match="not a readable Orbax checkpoint"):
    checkpoints.load_params(step)
  with pytest.raises(InputError, match="no parameters"):
    checkpoints.load_params(tmp_path / "checkpoint_2")


# -------------------------------------------------------------- bad folders


def test_bad_tensors_are_input_errors(tmp_path):
  wrong = TENSORS[LAST][:7]
  bad = {
    f"no tensor {LAST}": {n: x for n, x in TENSORS.items() if n != LAST},
    "tensor adapter.bias has no place": TENSORS | {"adapter.bias": wrong},
    rf"tensor {LAST} has shape \(7,\), expected \(16,\)": TENSORS
    | {LAST: wrong},
    f"tensor {LAST} has values that are NaN": TENSORS
    | {LAST: np.where(np.arange(16) == 15, np.nan, TENSORS[LAST])},
    f"tensor {LAST} has values that are NaN or infinite": TENSORS
    | {LAST: np.full(16, np.inf, np.float32)},
  }
  for number, (message, tensors) in enumerate(bad.items()):
    folder = _write_folder(tmp_path / str(number), tensors)
    with pytest.raises(InputError, match=message) as error:
      _load(folder)
    assert str(folder / "model.safetensors") in str(error.value)


def test_truncated_safetensors_are_input_errors(hf_folder):
  path = hf_folder / "model.safetensors"
  data = path.read_bytes()
  (length,) = struct.unpack("<Q", data[:8])
  for size in (len(data) - 4, length // 2, 3, 0):
    path.write_bytes(data[:size])
    message = "cut off, or not a safetensors file"
    with pytest.raises(InputError, match=message) as error:
      _load(hf_folder)
    assert str(path) in str(error.value)


def test_wrong_folders_are_input_errors(hf_folder, tmp_path):
  with pytest.raises(InputError, match="absent: no such folder"):
    _load(tmp_path / "absent")
  with pytest.raises(InputError, match="not found locally or on the hub"):
    _load("nobody/nothing")
  (tmp_path / "empty").mkdir()
  with pytest.raises(InputError, match=r"no config\.json"):
    _load(tmp_path / "empty")
  with pytest.raises(InputError, match="the model type is 'bert'"):
    checkpoints.load_query_generator(hf_folder)
  (hf_folder / "model.safetensors").unlink()
  with pytest.raises(InputError, match=r"neither checkpoint_<step> nor model"):
    _load(hf_folder)


def test_a_tokenizer_of_another_vocabulary_is_an_input_error(hf_folder):
  words = [chr(number) for number in range(0x4E00, 0x4E00 + 60)]
  other = train_tokenizer([" ".join(words)], vocab_size=200, style="bert")
  other.save(hf_folder)
  with pytest.raises(InputError, match="the tokenizer has 65 tokens") as error:
    _load(hf_folder)
  assert "embeddings.word_embeddings has 50 rows" in str(error.value)


# -------------------------------------------------------- Hugging Face out


def test_export_is_byte_identical_and_loads_again(hf_folder, tmp_path):
  encoder = _load(hf_folder)
  out = tmp_path / "out"
  checkpoints.export_dual_encoder(out, encoder)
  tensors = checkpoints.read_hf_tensors(out)
  assert sorted(tensors) == sorted(TENSORS)
  for name, value in TENSORS.items():
    assert tensors[name].tobytes() == value.tobytes()
  again = checkpoints.load_dual_encoder(out)
  assert again.fingerprint == encoder.fingerprint
  # Without our own file the sentence-transformers files say the same.
  (out / "dual_encoder.json").unlink()
  assert checkpoints.load_dual_encoder(out).config == POOLING


def test_export_opens_in_transformers(hf_folder, tmp_path):
  torch = pytest.importorskip("torch", reason="torch is the reference")
  transformers = pytest.importorskip(
    "transformers", reason="transformers is the reference"
  )
  encoder = _load(hf_folder)
  checkpoints.export_dual_encoder(tmp_path / "out", encoder)
  model, report = transformers.AutoModel.from_pretrained(
    tmp_path / "out", add_pooling_layer=False, output_loading_info=True
  )
  assert not report["missing_keys"]
  assert not report["unexpected_keys"]
  words = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
  text = "query: the old mill"
  batch = words([text], return_tensors="pt", return_token_type_ids=False)
  with torch.no_grad():
    hidden = model.eval()(**batch).last_hidden_state
  expected = torch.nn.functional.normalize(hidden.mean(1), dim=-1).numpy()
  (vector,) = _embed(encoder, [encoder.format_query("the old mill")])
  np.testing.assert_allclose(vector, expected[0], atol=1e-5)


def _embed(encoder, texts):
  """Embeddings of texts, one a row, padded."""
  lists = encoder.tokenizer.encode_batch(texts, max_length=32)
  shape = (len(lists), max(map(len, lists)))
  tokens = np.full(shape, encoder.tokenizer.pad_id, np.int32)
  segment_ids, positions = np.zeros((2, *shape), np.int32)
  for row, ids in enumerate(lists):
    tokens[row, : len(ids)] = ids
    segment_ids[row, : len(ids)] = 1
    positions[row, : len(ids)] = np.arange(len(ids))
  embed = jax.jit(encoder.embed, static_argnames=("side", "num_segments"))
  rows = map(jnp.asarray, (tokens, segment_ids, positions))
  vectors = embed(encoder.params, *rows, side="query", num_segments=1)
  return np.asarray(vectors)[:, 0]


# ------------------------------------------------------------- the real e5


@pytest.mark.slow
def test_real_e5_vectors_equal_transformers(shared_dir):
  """200 questions in seven languages: ids equal, cosine over 0.99999."""
  folder = os.environ.get("XQG_E5_SMALL")
  if not folder:
    pytest.skip("XQG_E5_SMALL does not name a multilingual-e5-small folder")
  torch = pytest.importorskip("torch", reason="torch is the reference")
  transformers = pytest.importorskip(
    "transformers", reason="transformers is the reference"
  )
  file = (
    shared_dir / "data" / "xor_tydi" / "xor_dev_retrieve_eng_span_v1_1.jsonl"
  )
  by_language = {}
  for question in read_questions(file):
    by_language.setdefault(question.language, []).append(question.question)
  assert len(by_language) == 7
  encoder = _load(folder)
  texts = [
    encoder.format_query(text)
    for group in by_language.values()
    for text in group[:29]
  ]
  found = _embed(encoder, texts)
  words = transformers.AutoTokenizer.from_pretrained(folder)
  batch = words(
    texts, max_length=32, truncation=True, padding=True, return_tensors="pt"
  )
  ids = [
    row[mask].tolist()
    for row, mask in zip(
      batch.input_ids, batch.attention_mask.bool(), strict=True
    )
  ]
  lists = encoder.tokenizer.encode_batch(texts, max_length=32)
  assert [row.tolist() for row in lists] == ids
  model = transformers.AutoModel.from_pretrained(
    folder, add_pooling_layer=False
  ).eval()
  with torch.no_grad():
    hidden = model(**batch).last_hidden_state
  mask = batch.attention_mask[..., None]
  mean = (hidden * mask).sum(1) / mask.sum(1)
  expected = torch.nn.functional.normalize(mean, dim=-1).numpy()
  assert len(texts) == 203
  assert np.sum(found * expected, axis=-1).min() > 0.99999
  np.testing.assert_allclose(found, expected, atol=1e-5)
