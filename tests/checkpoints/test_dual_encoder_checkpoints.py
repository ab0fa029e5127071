"""Folders of dual encoders of every kind: projected, separate, from mT5."""

import dataclasses
import pathlib
import shutil

import jax
import numpy as np
import pytest

from tests.helpers import tiny_dual_encoder as tiny
from tests.helpers.tiny_t5 import SHAPES, make_torch_model, to_tensors
from xqg_jax import checkpoints
from xqg_jax.encoding.texts import encode_texts
from xqg_jax.errors import InputError
from xqg_jax.io.files import read_json, write_json
from xqg_jax.models.dual_encoder.config import (
  DualEncoderConfig,
  ProjectionConfig,
)
from xqg_jax.models.dual_encoder.dual_encoder import (
  DualEncoder,
  make_dual_encoder,
)
from xqg_jax.models.dual_encoder.network import make_network
from xqg_jax.models.encoder_families import encoder_config_to_hf, make_encoder
from xqg_jax.models.parameters import param_shapes
from xqg_jax.models.t5.network import T5Config
from xqg_jax.runtime.sharding import make_mesh
from xqg_jax.text.tokenizer_training import train_tokenizer

T5 = T5Config(
  vocab_size=128,
  emb_dim=16,
  num_heads=2,
  head_dim=6,
  mlp_dim=24,
  num_encoder_layers=1,
  num_decoder_layers=1,
)
MODELS = {"bert": tiny.MODEL, "t5": T5}
CONFIGS = {
  "plain": tiny.CONFIG,
  "projected": dataclasses.replace(
    tiny.CONFIG, projection=ProjectionConfig(size=12, activation="tanh")
  ),
  "separate": dataclasses.replace(
    tiny.CONFIG,
    share_encoders=False,
    projection=ProjectionConfig(size=12, use_bias=False),
  ),
}


def make(model: str, config: str, seed: int = 0) -> DualEncoder:
  config, sizes = CONFIGS[config], MODELS[model]
  network = make_network(make_encoder(sizes), config)
  rng = np.random.default_rng(seed)
  return make_dual_encoder(
    model_config=sizes,
    params=jax.tree.map(
      lambda x: rng.normal(0, 0.5, x.shape).astype(np.float32),
      param_shapes(network),
    ),
    config=config,
    tokenizer=train_tokenizer(
      tiny.make_texts(200, longest=9),
      vocab_size=128,
      style="t5" if model == "t5" else "bert",
    ),
  )


def assert_same(found: DualEncoder, expected: DualEncoder) -> None:
  assert found.config == expected.config
  assert found.fingerprint == expected.fingerprint
  jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)


def read_tensors(folder: pathlib.Path) -> dict[str, bytes]:
  """Bytes of all tensors below a folder, by file and name."""
  return {
    f"{path.parent.relative_to(folder)} {name}": value.tobytes()
    for path in sorted(folder.rglob("model.safetensors"))
    for name, value in checkpoints.read_hf_tensors(path.parent).items()
  }


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("model", MODELS)
def test_round_trips_are_byte_identical(model, config, tmp_path):
  encoder = make(model, config)
  checkpoints.export_dual_encoder(tmp_path / "hf", encoder)
  loaded = checkpoints.load_dual_encoder(tmp_path / "hf")
  assert_same(loaded, encoder)
  checkpoints.save_model_files(
    tmp_path / "ours",
    model_config_hf=encoder_config_to_hf(MODELS[model]),
    tokenizer=encoder.tokenizer,
    dual_encoder_config=encoder.config,
  )
  checkpoints.save_params(tmp_path / "ours", 3, loaded.params)
  ours = checkpoints.load_dual_encoder(tmp_path / "ours")
  assert_same(ours, encoder)
  checkpoints.export_dual_encoder(tmp_path / "again", ours)
  tensors = read_tensors(tmp_path / "hf")
  assert read_tensors(tmp_path / "again") == tensors
  num_files = {"plain": 1, "projected": 2, "separate": 4}[config]
  assert len({name.split()[0] for name in tensors}) == num_files


@pytest.mark.parametrize("config", CONFIGS)
def test_parameters_load_split_over_devices(config, tmp_path):
  encoder = make("t5", config)
  checkpoints.export_dual_encoder(tmp_path, encoder)
  mesh = make_mesh(2)
  split = checkpoints.load_dual_encoder(tmp_path, mesh=mesh)
  assert_same(split, encoder)
  shapes = {
    str(path): leaf.addressable_shards[0].data.shape
    for path, leaf in jax.tree.leaves_with_path(split.params)
  }
  tables = [shape for path, shape in shapes.items() if "embedding'" in path]
  tables = [shape for shape in tables if shape[-1] == 16]
  assert set(tables) == {(64, 16)}
  kernels = [shape for path, shape in shapes.items() if "projection" in path]
  assert all(shape[-1] == 12 for shape in kernels)


def test_the_encoder_of_a_whole_mt5(tmp_path):
  """Out of a folder of transformers, in which the decoder is passed over."""
  model = make_torch_model(SHAPES[0])
  model.save_pretrained(tmp_path)
  train_tokenizer(["a b c"], vocab_size=60, style="t5").save(tmp_path)
  given = DualEncoderConfig(pooling="mean", normalize=True)
  encoder = checkpoints.load_dual_encoder(tmp_path, config=given)
  tensors = to_tensors(model)
  expected = {
    name
    for name in tensors
    if name.startswith(("shared.", "encoder."))
    and name != "encoder.embed_tokens.weight"
  }
  checkpoints.export_dual_encoder(tmp_path / "out", encoder)
  written = checkpoints.read_hf_tensors(tmp_path / "out")
  assert set(written) == expected
  for name in expected:
    assert written[name].tobytes() == tensors[name].tobytes(), name
  with pytest.raises(InputError, match=r"'float16' .*overflow float16"):
    checkpoints.load_dual_encoder(tmp_path, config=given, dtype="float16")
  with pytest.raises(InputError, match=r"encoders/mt5\.gin"):
    checkpoints.load_dual_encoder(tmp_path)


def test_the_encoder_of_a_query_generator_of_ours(tmp_path):
  from xqg_jax.models.t5.network import T5 as Network

  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: rng.normal(size=x.shape).astype(np.float32),
    param_shapes(Network(T5)),
  )
  train_tokenizer(["a b c"], vocab_size=60, style="t5").save(tmp_path)
  write_json(tmp_path / "config.json", T5.to_hf())
  checkpoints.save_params(tmp_path, 7, params)
  given = DualEncoderConfig(pooling="mean", normalize=True)
  encoder = checkpoints.load_dual_encoder(tmp_path, config=given)
  assert encoder.params.keys() == {"encoder"}
  assert encoder.params["encoder"].keys() == {"token_embedder", "encoder"}
  for name, part in encoder.params["encoder"].items():
    jax.tree.map(np.testing.assert_array_equal, part, params[name])


def test_separate_sides_take_their_own_prefix_and_length(tmp_path):
  encoder = make("bert", "separate")
  checkpoints.export_dual_encoder(tmp_path, encoder)
  for name, changes in (
    ("query_encoder", {"query_prefix": "Q ", "passage_prefix": "no"}),
    ("passage_encoder", {"passage_prefix": "P ", "passage_length": 50}),
  ):
    path = tmp_path / name / "dual_encoder.json"
    write_json(path, read_json(path) | changes)
  config = checkpoints.load_dual_encoder(tmp_path).config
  assert (config.query_prefix, config.passage_prefix) == ("Q ", "P ")
  assert (config.query_length, config.passage_length) == (24, 50)
  assert not config.share_encoders
  # One side alone is a dual encoder that shares its parameters.
  alone = checkpoints.load_dual_encoder(tmp_path / "query_encoder")
  assert alone.config.share_encoders
  jax.tree.map(
    np.testing.assert_array_equal,
    alone.params,
    encoder.params["query_encoder"],
  )


def test_a_config_leaves_the_sides_as_the_weights_have_them(tmp_path):
  checkpoints.export_dual_encoder(tmp_path / "two", make("bert", "separate"))
  checkpoints.export_dual_encoder(tmp_path / "one", make("bert", "plain"))
  given = DualEncoderConfig(pooling="cls", normalize=True, passage_length=64)
  config = checkpoints.load_dual_encoder(tmp_path / "two", config=given).config
  assert config == dataclasses.replace(
    given,
    share_encoders=False,
    projection=CONFIGS["separate"].projection,
  )
  split = dataclasses.replace(given, share_encoders=False)
  with pytest.raises(InputError, match="one: share_encoders is False, but Tru"):
    checkpoints.load_dual_encoder(tmp_path / "one", config=split)


def test_sides_that_do_not_fit_are_input_errors(tmp_path):
  checkpoints.export_dual_encoder(tmp_path / "two", make("bert", "separate"))
  checkpoints.export_dual_encoder(tmp_path / "t5", make("t5", "separate"))

  def check(message, change):
    folder = tmp_path / "changed"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(tmp_path / "two", folder)
    change(folder)
    with pytest.raises(InputError, match=message) as error:
      checkpoints.load_dual_encoder(folder)
    assert "\n" not in str(error.value)

  def edit(name, **changes):
    def change(folder):
      path = folder / "passage_encoder" / name
      write_json(path, read_json(path) | changes)

    return change

  def other_tokenizer(folder):
    words = train_tokenizer(["a b"], vocab_size=30, style="bert")
    words.save(folder / "passage_encoder")

  for message, change in {
    r"changed: query_encoder is there, but no passage_encoder/config\.json": (
      lambda folder: shutil.rmtree(folder / "passage_encoder")
    ),
    r"passage_encoder: its config\.json differs from that of query_encoder": (
      edit("config.json", layer_norm_eps=1e-3)
    ),
    "its tokenizer differs from that of query_encoder": other_tokenizer,
    "pooling is mean in query_encoder and cls in passage_encoder": (
      edit("dual_encoder.json", pooling="cls")
    ),
    r"passage_encoder/model\.safetensors.*no such|neither|no weights": (
      lambda folder: (folder / "passage_encoder" / "model.safetensors").unlink()
    ),
    r"dual_encoder\.json: projection: lacks the field size": (
      edit("dual_encoder.json", projection={"length": 4})
    ),
  }.items():
    check(message, change)
  with pytest.raises(InputError, match=r"config\.json: no such file"):
    checkpoints.load_query_generator(tmp_path / "two")


def test_vectors_of_each_side_come_from_its_own_folder(tmp_path):
  encoder = make("t5", "separate")
  checkpoints.export_dual_encoder(tmp_path, encoder)
  texts = tiny.make_texts(6, longest=12)
  whole = checkpoints.load_dual_encoder(tmp_path)
  vectors = []
  for side in ("query", "passage"):
    alone = checkpoints.load_dual_encoder(tmp_path / f"{side}_encoder")
    options = {"max_length": 24, "row_lengths": (32,)}
    found = encode_texts(whole, texts, side=side, **options)
    expected = encode_texts(alone, texts, side="passage", **options)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    vectors.append(found)
  assert np.abs(vectors[0] - vectors[1]).max() > 0.1
