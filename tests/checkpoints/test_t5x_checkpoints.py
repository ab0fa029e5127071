"""T5X's checkpoints: both layouts in, out again, and damaged ones."""

import functools
import json
import pathlib
import shutil

import gin
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import tensorstore as ts
from flax.traverse_util import flatten_dict, unflatten_dict

from tests.helpers import tiny_dual_encoder, tiny_t5, tiny_t5x
from xqg_jax.checkpoints import (
  export_t5x,
  load_dual_encoder,
  load_query_generator,
  save_model_files,
  save_params,
)
from xqg_jax.checkpoints.placement import place_on
from xqg_jax.checkpoints.t5x import layouts, networks
from xqg_jax.checkpoints.t5x.adafactor import make_statistics, to_param_states
from xqg_jax.checkpoints.t5x.layouts import T5xTensor, open_t5x_step
from xqg_jax.cli.config import run_stage
from xqg_jax.errors import InputError
from xqg_jax.io.locations import CONTEXT, Location
from xqg_jax.models.bert.encoder import BertEncoder
from xqg_jax.models.dual_encoder.network import make_network
from xqg_jax.models.parameters import param_shapes
from xqg_jax.models.t5.network import MT5_SIZES, T5, T5Config
from xqg_jax.runtime.sharding import make_mesh
from xqg_jax.stages.export import export
from xqg_jax.text.tokenizer_training import train_tokenizer

NORM = "encoder/encoder_norm/scale"
LOGITS = "decoder/logits_dense/kernel"


@pytest.fixture(scope="module", params=tiny_t5x.WRITERS)
def model_dir(request, tmp_path_factory):
  """A MODEL_DIR of T5X in either layout, a tokenizer in it."""
  folder = tmp_path_factory.mktemp(request.param)
  tiny_t5x.WRITERS[request.param](folder / "checkpoint_7")
  tiny_t5x.TOKENIZER.save(folder)
  return folder


@pytest.fixture
def copied(model_dir, tmp_path):
  """A copy of it that a test may damage: its step's folder."""
  shutil.copytree(model_dir, tmp_path / "copy")
  return tmp_path / "copy" / "checkpoint_7"


# ------------------------------------------------------------------------- in


def test_both_layouts_give_network_parameters_and_tokenizer(model_dir):
  for path in (model_dir, model_dir / "checkpoint_7"):
    generator = load_query_generator(path)
    assert generator.config == tiny_t5x.CONFIG
    assert generator.tokenizer.fingerprint == tiny_t5x.TOKENIZER.fingerprint
    tiny_t5x.assert_params(generator.params)
  step = open_t5x_step(Location.of(model_dir / "checkpoint_7"))
  assert networks.read_t5x_step(step) == 7


@pytest.mark.parametrize("form", ["old gcs", "gfile", "file"])
def test_stores_of_other_machines_mean_this_folder(tmp_path, form):
  tiny_t5x.write_classic(tmp_path / "checkpoint_7", form=form)
  generator = load_query_generator(
    tmp_path, tokenizer_path=_save_tokenizer(tmp_path / "words")
  )
  tiny_t5x.assert_params(generator.params)


def _save_tokenizer(folder):
  tiny_t5x.TOKENIZER.save(folder)
  return folder


def test_the_newest_step_is_taken_and_ours_goes_first(tmp_path):
  tiny_t5x.TOKENIZER.save(tmp_path)
  for step in (9, 10):
    tiny_t5x.write_classic(
      tmp_path / f"checkpoint_{step}", tiny_t5x.random_params(seed=step)
    )
  (tmp_path / "checkpoint_11").mkdir()
  tiny_t5x.assert_params(
    load_query_generator(tmp_path).params, tiny_t5x.random_params(seed=10)
  )
  old = load_query_generator(tmp_path / "checkpoint_9")
  tiny_t5x.assert_params(old.params, tiny_t5x.random_params(seed=9))
  save_model_files(
    tmp_path,
    model_config_hf=tiny_t5x.CONFIG.to_hf(),
    tokenizer=tiny_t5x.TOKENIZER,
  )
  save_params(tmp_path, 3, unflatten_dict(tiny_t5x.PARAMS, sep="/"))
  tiny_t5x.assert_params(load_query_generator(tmp_path).params)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float64])
@pytest.mark.parametrize("layout", tiny_t5x.WRITERS)
def test_other_dtypes_become_float32(tmp_path, layout, dtype):
  stored = {
    name: value.astype(dtype) for name, value in tiny_t5x.PARAMS.items()
  }
  tiny_t5x.WRITERS[layout](tmp_path / "checkpoint_7", stored)
  tiny_t5x.TOKENIZER.save(tmp_path)
  expected = {n: value.astype(np.float32) for n, value in stored.items()}
  tiny_t5x.assert_params(load_query_generator(tmp_path).params, expected)


@pytest.mark.parametrize("num_partitions", [1, 2])
def test_parameters_are_read_in_the_parts_of_the_mesh(
  model_dir, num_partitions
):
  mesh = make_mesh(num_partitions)
  params = load_query_generator(model_dir, mesh=mesh).params
  tiny_t5x.assert_params(params)
  kernel = params["decoder"]["logits_dense"]["kernel"]
  assert len(kernel.devices()) == 8
  assert kernel.addressable_shards[0].data.shape == (16, 300 // num_partitions)


class _Watched:
  """A stored tensor that counts what is asked of it."""

  def __init__(self, value):
    self.value, self.shape, self.read = value, value.shape, []

  def __getitem__(self, index):
    block = np.array(self.value[index])
    self.read.append(block.shape)
    return block


def test_each_part_is_read_once_and_the_whole_never():
  value = np.arange(96, dtype=np.float32).reshape(8, 12)
  spec = jax.sharding.PartitionSpec(None, "model")
  sharding = jax.sharding.NamedSharding(make_mesh(4), spec)
  stored = _Watched(value)
  placed = place_on({"a": {"b": sharding}})("a/b", stored)
  np.testing.assert_array_equal(placed, value)
  assert placed.sharding == sharding
  assert stored.read == [(8, 3)] * 4  # eight devices hold them
  stored = _Watched(value)
  np.testing.assert_array_equal(place_on(None)("a/b", stored), value)
  assert stored.read == [(8, 12)]


def test_large_blocks_are_read_bit_by_bit_along_stored_chunks(
  tmp_path, monkeypatch
):
  value = np.arange(40 * 6, dtype=np.float32).reshape(40, 6)
  tiny_t5x.write_zarr(Location.of(tmp_path / "a").kvstore(), value, [7, 6])
  spec = {"driver": "zarr", "kvstore": Location.of(tmp_path / "a").kvstore()}
  monkeypatch.setattr(layouts, "_READ_BYTES", 2 * 7 * 6 * 4)
  tensor = T5xTensor(
    "a", Location.of(tmp_path), ts.open(spec, open=True).result()
  )
  read, sizes = tensor._read, []
  tensor._read = lambda index: sizes.append(index[0]) or read(index)
  block = tensor[(slice(3, 36), slice(None))]
  np.testing.assert_array_equal(block, value[3:36])
  assert sizes == [slice(3, 14), slice(14, 28), slice(28, 36)]


# -------------------------------------------------------------------- network


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shape", tiny_t5.SHAPES)
def test_shapes_tell_the_network(shape, tied):
  config = T5Config(
    vocab_size=60,
    emb_dim=shape["d_model"],
    num_heads=shape["num_heads"],
    head_dim=shape["d_kv"],
    mlp_dim=shape["d_ff"],
    num_encoder_layers=shape["num_layers"],
    num_decoder_layers=12,
    num_buckets=16,
    logits_via_embedding=tied,
  )
  shapes = {name: x.shape for name, x in tiny_t5x.random_params(config).items()}
  assert networks.infer_config(shapes) == config


@pytest.mark.parametrize("size", ["small", "large"])
def test_shapes_tell_the_released_sizes(size):
  config = MT5_SIZES[size]
  tree = flatten_dict(param_shapes(T5(config=config)), sep="/")
  shapes = {name: leaf.shape for name, leaf in tree.items()}
  assert networks.infer_config(shapes) == config


def test_names_and_shapes_are_those_recorded_of_t5x():
  """The file lists what T5X's network declares by its mt5/small.gin."""
  lines = pathlib.Path(__file__).with_name("t5x_mt5_small.txt").read_text()
  recorded = dict(line.split() for line in lines.splitlines())
  module = T5(config=MT5_SIZES["small"])
  shapes = flatten_dict(param_shapes(module), sep="/")
  found = {n: "x".join(map(str, leaf.shape)) for n, leaf in shapes.items()}
  assert found == recorded
  assert len(recorded) == 190


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({NORM: None}, f"no tensor {NORM}"),
    ({"token_embedder/embedding": None}, "no tensor token_embedder/embedding"),
    (
      {"decoder/layers_0/mlp/wo/kernel": None},
      "no tensor decoder/layers_0/mlp/wo/kernel",
    ),
    ({"adapter/scale": np.ones(3)}, "tensor adapter/scale has no place"),
    ({NORM: np.ones(3)}, rf"tensor {NORM} has shape \(3,\), expected \(16,\)"),
    (
      {LOGITS: np.ones((16, 9))},
      rf"tensor {LOGITS} has shape \(16, 9\), expected \(16, 300\)",
    ),
    (
      {"encoder/layers_0/mlp/wi/kernel": np.ones((16, 24))},
      "the network is T5 1.0",
    ),
    ({NORM: np.full(16, np.nan)}, f"tensor target/{NORM} has values .* NaN"),
    (
      {LOGITS: np.full((16, 300), np.inf)},
      f"tensor target/{LOGITS} has values .* NaN or infinite",
    ),
  ],
)
def test_unfit_tensors_are_named(tmp_path, change, message):
  params = {
    n: x for n, x in (tiny_t5x.PARAMS | change).items() if x is not None
  }
  for layout, write in tiny_t5x.WRITERS.items():
    folder = tmp_path / layout / "checkpoint_7"
    write(folder, params)
    tiny_t5x.TOKENIZER.save(folder)
    with pytest.raises(InputError, match=message) as error:
      load_query_generator(folder)
    assert str(error.value).startswith(f"{folder}: ")


# ------------------------------------------------------------- damaged folders


def _fail(folder):
  with pytest.raises(InputError) as error:
    load_query_generator(folder)
  assert "\n" not in str(error.value)
  return str(error.value)


def test_damaged_classic_files_are_named(tmp_path):
  folder = tmp_path / "checkpoint_7"
  tiny_t5x.write_classic(folder)
  tiny_t5x.TOKENIZER.save(tmp_path)
  chunk = folder / f"target.{LOGITS.replace('/', '.')}" / "1.3"
  whole = chunk.read_bytes()
  chunk.write_bytes(whole[:-20])
  assert f"tensor target/{LOGITS} cannot be read" in _fail(folder)
  chunk.unlink()
  assert f"tensor target/{LOGITS} cannot be read" in _fail(folder)
  (chunk.parent / ".zarray").write_text("{")
  assert f"tensor target/{LOGITS} cannot be opened" in _fail(folder)
  shutil.rmtree(chunk.parent)
  assert f"tensor target/{LOGITS} cannot be opened" in _fail(folder)
  index = folder / "checkpoint"
  content = index.read_bytes()
  for size in (0, 3, len(content) // 2, len(content) - 1):
    index.write_bytes(content[:size])
    line = _fail(folder)
    assert line.startswith(f"{index}: not a T5X checkpoint")
  index.write_bytes(b'model_checkpoint_path: "model.ckpt-1000000"')
  assert "TensorFlow" in _fail(folder)


def test_damaged_orbax_files_are_named(tmp_path):
  folder = tmp_path / "checkpoint_7"
  tiny_t5x.write_orbax(folder)
  tiny_t5x.TOKENIZER.save(tmp_path)
  metadata = folder / "state" / "_METADATA"
  content = metadata.read_text()
  metadata.write_text(content[:-30])
  assert _fail(folder).startswith(f"{metadata}: not valid JSON")
  metadata.write_text(json.dumps({"tree_metadata": {"a": {}}}))
  assert _fail(folder).startswith(f"{metadata}: tree_metadata[...]: lacks")
  metadata.write_text(content)
  for data in sorted((folder / "state").rglob("d/*")):
    data.write_bytes(data.read_bytes()[:-10])
  assert "tensor target/" in _fail(folder)
  shutil.rmtree(folder / "state" / "d")
  (folder / "state" / "manifest.ocdbt").unlink()
  assert "cannot be opened" in _fail(folder)


def test_uint16_of_old_t5x_is_refused(tmp_path):
  folder = tmp_path / "checkpoint_7"
  stored = tiny_t5x.PARAMS | {LOGITS: np.ones((16, 300), np.uint16)}
  tiny_t5x.write_classic(folder, stored)
  tiny_t5x.TOKENIZER.save(folder)
  assert f"target/{LOGITS} is stored as uint16" in _fail(folder)


# ------------------------------------------------------------------ tokenizers


def test_a_missing_tokenizer_is_told_with_its_place(copied):
  for name in ("tokenizer.json", "tokenizer_config.json"):
    (copied.parent / name).unlink()
  line = _fail(copied)
  for part in ("tokenizer.json", "sentencepiece.model", "TOKENIZER_PATH"):
    assert part in line
  assert f"into {copied.parent}" in line
  with pytest.raises(InputError, match=r"absent: no tokenizer"):
    load_query_generator(copied, tokenizer_path=copied / "absent")


def test_tokenizers_are_taken_from_files_and_folders(copied, tmp_path):
  other = train_tokenizer(["rivers and hills"], vocab_size=40, style="t5")
  other.save(tmp_path / "other")
  for path in (tmp_path / "other", tmp_path / "other" / "tokenizer.json"):
    generator = load_query_generator(copied, tokenizer_path=path)
    assert generator.tokenizer.fingerprint == other.fingerprint
  assert (
    load_query_generator(copied).tokenizer.fingerprint
    == tiny_t5x.TOKENIZER.fingerprint
  )
  words = [chr(number) for number in range(0x4E00, 0x4E00 + 400)]
  large = train_tokenizer([" ".join(words)], vocab_size=600, style="t5")
  large.save(tmp_path / "large")
  with pytest.raises(InputError, match=r"tokenizer has 40\d tokens"):
    load_query_generator(copied, tokenizer_path=tmp_path / "large")


def test_a_checkpoint_with_its_own_tokenizer_keeps_it(model_dir, tmp_path):
  generator = load_query_generator(model_dir)
  export_dir = tmp_path / "hf"
  export(checkpoint_path=model_dir, output_dir=export_dir)
  again = load_query_generator(export_dir, tokenizer_path=model_dir)
  assert again.fingerprint == generator.fingerprint
  other = train_tokenizer(["rivers and hills"], vocab_size=40, style="t5")
  other.save(tmp_path / "other")
  with pytest.raises(InputError, match="a tokenizer of its own"):
    load_query_generator(export_dir, tokenizer_path=tmp_path / "other")


# --------------------------------------------------------------------- buckets


def test_buckets_are_read_by_tensorstore():
  step = Location.of("gs://t5-data/pretrained_models/t5x/mt5_base/checkpoint_9")
  assert step.kvstore() == {
    "driver": "gcs",
    "bucket": "t5-data",
    "path": "pretrained_models/t5x/mt5_base/checkpoint_9/",
  }
  assert str(step.parent / "tokenizer.json").endswith("base/tokenizer.json")
  assert Location.of("s3://models").kvstore() == {
    "driver": "s3",
    "bucket": "models",
    "path": "",
  }


def test_a_folder_that_no_disk_holds(tmp_path):
  """`memory://` takes the place of a bucket: all reads go by TensorStore."""
  folder = Location.of("memory://models/mt5")
  for step in (9, 10):
    tiny_t5x.write_classic(
      folder / f"checkpoint_{step}", tiny_t5x.random_params(seed=step)
    )
  tiny_t5x.TOKENIZER.save(tmp_path)
  store = ts.KvStore.open(folder.kvstore(), context=CONTEXT).result()
  with pytest.raises(InputError, match=r"memory://models/mt5, or set TOKEN"):
    load_query_generator("memory://models/mt5")
  for path in tmp_path.iterdir():
    store.write(path.name, path.read_bytes()).result()
  generator = load_query_generator("memory://models/mt5")
  tiny_t5x.assert_params(generator.params, tiny_t5x.random_params(seed=10))
  generator = load_query_generator("memory://models/mt5/checkpoint_9")
  tiny_t5x.assert_params(generator.params, tiny_t5x.random_params(seed=9))
  assert generator.tokenizer.fingerprint == tiny_t5x.TOKENIZER.fingerprint
  with pytest.raises(InputError, match="no such folder"):
    load_query_generator("memory://models/absent")


def test_file_urls_are_paths(model_dir):
  tiny_t5x.assert_params(load_query_generator(f"file://{model_dir}").params)


# ------------------------------------------------------------------------- out


def test_round_trip_is_byte_identical(model_dir, tmp_path):
  generator = load_query_generator(model_dir)
  folder = export_t5x(tmp_path / "out", generator, step=7)
  checkpoint = open_t5x_step(Location.of(folder))
  tensors = checkpoint.open("target/")
  assert tensors.keys() == tiny_t5x.PARAMS.keys()
  for name, value in tiny_t5x.PARAMS.items():
    stored = tensors[name].read()
    assert (stored.dtype, stored.tobytes()) == (np.float32, value.tobytes())
  assert networks.read_t5x_step(checkpoint) == 7
  again = load_query_generator(tmp_path / "out")
  assert again.fingerprint == generator.fingerprint
  with pytest.raises(InputError, match=r"checkpoint_7: .*already there"):
    export_t5x(tmp_path / "out", generator, step=7)


def test_a_fresh_optimizer_has_t5xs_shapes():
  params = {"a": {"kernel": np.ones((130, 200))}, "b": {"scale": np.ones(5)}}
  states = flatten_dict(to_param_states(make_statistics(params)), sep="/")
  assert {name: value.shape for name, value in states.items()} == {
    "a/kernel/v_row": (130,),
    "a/kernel/v_col": (200,),
    "a/kernel/v": (1,),
    "a/kernel/m": (1,),
    "b/scale/v_row": (1,),
    "b/scale/v_col": (1,),
    "b/scale/v": (5,),
    "b/scale/m": (1,),
  }
  assert not any(value.any() for value in states.values())


@pytest.fixture
def _unlocked_gin():
  yield
  gin.clear_config()  # T5X, when it is imported, adds configurables


@pytest.mark.usefixtures("_unlocked_gin")
def test_the_verb_exports_once(model_dir, tmp_path):
  bindings = {
    "CHECKPOINT_PATH": str(model_dir),
    "OUTPUT_DIR": str(tmp_path / "out"),
    "FORMAT": "t5x",
  }
  run_stage("export", gin_bindings=bindings)
  exported = tmp_path / "out" / "checkpoint_7"
  tiny_t5x.assert_params(load_query_generator(exported).params)
  before = {path: path.stat().st_mtime_ns for path in exported.rglob("*")}
  run_stage("export", gin_bindings=bindings)
  after = {path: path.stat().st_mtime_ns for path in exported.rglob("*")}
  assert after == before
  with pytest.raises(InputError, match="unknown format 'flax'"):
    export(checkpoint_path=model_dir, output_dir=tmp_path, format="flax")


def test_ours_is_the_network_that_is_recorded_anew():
  """The recording is what the installed T5X declares."""
  network = pytest.importorskip(
    "t5x.examples.t5.network", reason=tiny_t5x.GET_T5X
  )
  config = network.T5Config(
    vocab_size=250112,
    emb_dim=512,
    num_heads=6,
    num_encoder_layers=8,
    num_decoder_layers=8,
    head_dim=64,
    mlp_dim=1024,
    mlp_activations=("gelu", "linear"),
  )
  row = jax.ShapeDtypeStruct((1, 4), jnp.int32)
  variables = jax.eval_shape(
    functools.partial(network.Transformer(config).init, enable_dropout=False),
    jax.random.PRNGKey(0),
    *(row,) * 3,
  )
  found = {
    f"{name} {'x'.join(map(str, leaf.shape))}"
    for name, leaf in flatten_dict(variables["params"], sep="/").items()
  }
  recorded = pathlib.Path(__file__).with_name("t5x_mt5_small.txt").read_text()
  assert found == set(recorded.splitlines())


# -------------------------------------------------------------- dual encoders


def test_dual_encoders_go_to_hugging_face_only(tmp_path):
  config, path = tiny_dual_encoder.CONFIG, tmp_path / "ours"
  network = make_network(BertEncoder(tiny_dual_encoder.MODEL), config)
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda leaf: rng.normal(size=leaf.shape).astype(np.float32),
    param_shapes(network),
  )
  save_model_files(
    path,
    model_config_hf=tiny_dual_encoder.MODEL.to_hf(),
    tokenizer=train_tokenizer(["old mill"], vocab_size=30, style="bert"),
    dual_encoder_config=config,
  )
  save_params(path, 1, params)
  export(checkpoint_path=path, output_dir=tmp_path / "hf")
  found = [load_dual_encoder(folder) for folder in (path, tmp_path / "hf")]
  assert found[0].fingerprint == found[1].fingerprint
  with pytest.raises(InputError, match="T5X has no network for dual encoders"):
    export(checkpoint_path=path, output_dir=tmp_path / "t5x", format="t5x")
