"""Query generators in and out: every form of file, and transformers."""

import fnmatch
import pathlib
import shutil

import flax.serialization
import jax
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from tests.helpers import tiny_t5
from xqg_jax import checkpoints
from xqg_jax.errors import InputError
from xqg_jax.io.files import read_json, write_json
from xqg_jax.models.t5 import network
from xqg_jax.text.tokenizer_training import train_tokenizer

TOKENIZER = train_tokenizer(["the old mill"], vocab_size=40, style="t5")
CONFIG = network.T5Config(
  vocab_size=64,
  emb_dim=16,
  num_heads=2,
  head_dim=4,
  mlp_dim=24,
  num_encoder_layers=1,
  num_decoder_layers=2,
)


def _random_params():
  dummy = jax.ShapeDtypeStruct((1, 2), np.int32)
  shapes = jax.eval_shape(
    network.T5(config=CONFIG).init, jax.random.key(0), *(dummy,) * 3
  )
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: rng.normal(size=x.shape).astype(np.float32), shapes["params"]
  )


PARAMS = _random_params()
TENSORS = network.params_to_hf(PARAMS, CONFIG)


def _write_folder(folder: pathlib.Path) -> pathlib.Path:
  """The folder of a model, weights still to come."""
  checkpoints.save_model_files(
    folder, model_config_hf=CONFIG.to_hf(), tokenizer=TOKENIZER
  )
  return folder


# ------------------------------------------------------------------ forms


def _flax_name(name: str) -> str:
  """As google/mt5-small's flax_model.msgpack has it; norms keep `weight`."""
  *path, last = name.split(".")
  if path[-1] in ("shared", "relative_attention_bias"):
    last = "embedding"
  elif "layer_norm" not in path[-1]:
    last = "kernel"
  return "/".join((*path, last))


def _flax_tensors():
  flat = {_flax_name(name): value for name, value in TENSORS.items()}
  return {k: x.T if k.endswith("kernel") else x for k, x in flat.items()}


def _write_flax(path: pathlib.Path, tensors) -> None:
  tree = unflatten_dict(tensors, sep="/")
  path.write_bytes(flax.serialization.msgpack_serialize(tree))


def _write_torch(path: pathlib.Path, tensors, **settings) -> None:
  torch = pytest.importorskip("torch", reason="writes a PyTorch file")
  state = {name: torch.tensor(value) for name, value in tensors.items()}
  if "shared.weight" in state:
    for stack in ("encoder", "decoder"):
      state[f"{stack}.embed_tokens.weight"] = state["shared.weight"]
  torch.save(state, path, **settings)


def _write_shards(folder: pathlib.Path, file: str, tensors, write) -> None:
  """Writes two files and their index, as transformers does."""
  stem, suffix = file.split(".")
  names, weight_map = sorted(tensors), {}
  for number, part in enumerate((names[:9], names[9:]), start=1):
    shard = f"{stem}-0000{number}-of-00002.{suffix}"
    write(folder / shard, {name: tensors[name] for name in part})
    weight_map |= dict.fromkeys(part, shard)
  index = {"metadata": {}, "weight_map": weight_map}
  write_json(folder / f"{file}.index.json", index)


def _write_safetensors_shards(folder):
  write = checkpoints.write_safetensors
  _write_shards(folder, "model.safetensors", TENSORS, write)


def _write_flax_file(folder):
  _write_flax(folder / "flax_model.msgpack", _flax_tensors())


def _write_flax_shards(folder):
  _write_shards(folder, "flax_model.msgpack", _flax_tensors(), _write_flax)


def _write_torch_file(folder):
  _write_torch(folder / "pytorch_model.bin", TENSORS)


def _write_old_torch_file(folder):
  path = folder / "pytorch_model.bin"
  _write_torch(path, TENSORS, _use_new_zipfile_serialization=False)


def _write_torch_shards(folder):
  _write_shards(folder, "pytorch_model.bin", TENSORS, _write_torch)


@pytest.mark.parametrize(
  "write",
  [
    _write_safetensors_shards,
    _write_flax_file,
    _write_flax_shards,
    _write_torch_file,
    _write_old_torch_file,
    _write_torch_shards,
  ],
)
def test_every_form_gives_the_same_parameters(tmp_path, write):
  write(_write_folder(tmp_path))
  generator = checkpoints.load_query_generator(tmp_path)
  assert generator.config == CONFIG
  jax.tree.map(np.testing.assert_array_equal, generator.params, PARAMS)


def test_names_of_flax_are_those_of_the_published_files():
  names = set(_flax_tensors())
  attention = "encoder/block/0/layer/0/SelfAttention"
  assert {
    "shared/embedding",
    "lm_head/kernel",
    "encoder/final_layer_norm/weight",
    "decoder/block/1/layer/2/DenseReluDense/wi_0/kernel",
    f"{attention}/q/kernel",
    f"{attention}/relative_attention_bias/embedding",
  } <= names


def test_our_own_form_and_back(tmp_path):
  ours = _write_folder(tmp_path / "ours")
  checkpoints.save_params(ours, 5, PARAMS)
  generator = checkpoints.load_query_generator(ours)
  assert generator.config == CONFIG
  assert generator.tokenizer.eos_id == 1
  jax.tree.map(np.testing.assert_array_equal, generator.params, PARAMS)
  checkpoints.export_query_generator(tmp_path / "hf", generator)
  again = checkpoints.load_query_generator(tmp_path / "hf")
  assert again.fingerprint == generator.fingerprint
  values = read_json(ours / "config.json") | {"vocab_size": 10}
  write_json(ours / "config.json", values)
  with pytest.raises(InputError, match=r"shared\.weight has 10 rows"):
    checkpoints.load_query_generator(ours)


def test_unfit_tensors_are_named_with_their_file(tmp_path):
  norm = "encoder.final_layer_norm.weight"
  for number, (expected, change) in enumerate(
    [
      (rf"no tensor {norm} \(1 of \d+ are missing\)", {norm: None}),
      (r"tensor a\.weight has no place", {"a.weight": TENSORS[norm]}),
      (rf"tensor {norm} has shape \(8,\), expe", {norm: TENSORS[norm][:8]}),
    ]
  ):
    folder = _write_folder(tmp_path / str(number))
    tensors = {k: x for k, x in (TENSORS | change).items() if x is not None}
    checkpoints.write_safetensors(folder / "model.safetensors", tensors)
    with pytest.raises(InputError, match=expected) as error:
      checkpoints.load_query_generator(folder)
    assert str(error.value).startswith(f"{folder / 'model.safetensors'}: ")


def test_a_missing_shard_is_an_input_error(tmp_path):
  for number, (write, suffix) in enumerate(
    [
      (_write_safetensors_shards, "safetensors"),
      (_write_flax_shards, "msgpack"),
      (_write_torch_shards, "bin"),
    ]
  ):
    folder = _write_folder(tmp_path / str(number))
    write(folder)
    (shard,) = folder.glob(f"*-00002-of-00002.{suffix}")
    shard.unlink()
    with pytest.raises(InputError, match=rf"00002\.{suffix}: no such file"):
      checkpoints.load_query_generator(folder)


# ---------------------------------------------------------------- the hub


@pytest.mark.parametrize(
  ("writers", "downloaded"),
  [
    ([_write_safetensors_shards, _write_flax_file, _write_torch_file], "safet"),
    ([_write_flax_file, _write_torch_file], "msgpack"),
    ([_write_flax_shards, _write_torch_shards], "msgpack"),
    ([_write_torch_shards], "bin"),
  ],
)
def test_one_form_is_downloaded(tmp_path, monkeypatch, writers, downloaded):
  import huggingface_hub

  source, target = _write_folder(tmp_path / "hub"), tmp_path / "cache"
  for write in writers:
    write(source)

  def download(name, *, allow_patterns):
    target.mkdir(exist_ok=True)
    for path in source.iterdir():
      if any(fnmatch.fnmatch(path.name, form) for form in allow_patterns):
        shutil.copy(path, target)
    return str(target)

  monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
  generator = checkpoints.load_query_generator("somebody/tiny-mt5")
  jax.tree.map(np.testing.assert_array_equal, generator.params, PARAMS)
  suffixes = {path.suffix for path in target.iterdir()} - {".json"}
  (suffix,) = suffixes
  assert suffix.startswith(f".{downloaded}")


# --------------------------------------------------------------- the way out


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["MT5", "T5"])
def test_export_opens_in_transformers(tmp_path, kind):
  torch = pytest.importorskip("torch", reason="torch is the reference")
  transformers = pytest.importorskip(
    "transformers", reason="transformers is the reference"
  )
  source = tiny_t5.make_torch_model(tiny_t5.SHAPES[0], kind=kind)
  is_tied = kind == "T5"
  module, params = tiny_t5.to_ours(source if is_tied else tiny_t5.untie(source))
  assert module.config.logits_via_embedding == is_tied
  generator = checkpoints.QueryGenerator(
    config=module.config,
    module=module,
    params=params,
    tokenizer=TOKENIZER,
    fingerprint="",
  )
  checkpoints.export_query_generator(tmp_path, generator)
  model_class = getattr(transformers, f"{kind}ForConditionalGeneration")
  model, report = model_class.from_pretrained(
    tmp_path, output_loading_info=True
  )
  for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
    assert not report[problem], problem
  inputs = tiny_t5.make_rows([9, 5, 2], 9)
  targets = tiny_t5.make_rows([6, 3, 4], 6, seed=1)
  shifted = tiny_t5.shift_right(targets)
  with torch.no_grad():
    reference = model.eval()(
      input_ids=torch.tensor(inputs).long(),
      attention_mask=torch.tensor(inputs != 0).long(),
      decoder_input_ids=torch.tensor(shifted).long(),
    )
  logits = tiny_t5.apply(module, params, inputs, shifted, targets)
  is_text = targets != 0
  np.testing.assert_allclose(
    logits[is_text], reference.logits.numpy()[is_text], atol=1e-5
  )
