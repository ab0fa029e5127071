"""What a plan says, against hand counts, the compiler and analytic figures."""

import dataclasses
import importlib.util
import json
import os

import jax
import numpy as np
import pytest

from xqg_jax.cli import main
from xqg_jax.errors import InputError
from xqg_jax.models.bert.encoder import BertConfig
from xqg_jax.models.dual_encoder.config import DualEncoderConfig
from xqg_jax.models.t5.network import T5Config
from xqg_jax.planning import largest_batch
from xqg_jax.planning.compilation import Measured
from xqg_jax.planning.steps import Recipe, add_sizes, count_device_bytes
from xqg_jax.runtime import program_costs
from xqg_jax.runtime.chips import CHIPS, Group, parse_topology, read_group
from xqg_jax.runtime.sharding import make_mesh
from xqg_jax.stages import plan
from xqg_jax.training.dual_encoder_model import DualEncoderModel
from xqg_jax.training.query_generator_model import QueryGeneratorModel

LENGTHS = {"query": 16, "passage": 32}


def _dual_encoder(**changes):
  sizes = {
    "vocab_size": 256,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "max_position_embeddings": 64,
  }
  return DualEncoderModel(
    config=BertConfig(**sizes),
    encoder=DualEncoderConfig(
      pooling="mean", normalize=True, query_length=16, passage_length=32
    ),
    num_negatives=1,
    **changes,
  )


def _query_generator():
  config = T5Config(
    vocab_size=256,
    emb_dim=32,
    num_heads=2,
    head_dim=16,
    mlp_dim=64,
    num_encoder_layers=2,
    num_decoder_layers=2,
  )
  return QueryGeneratorModel(config=config)


def _recipe():
  return Recipe(stage="train", model=add_sizes(_dual_encoder(), None))


def _count(model):
  params = jax.eval_shape(model.init, jax.random.key(0))
  return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))


# -------------------------------------------------------------- on this machine


@pytest.fixture(scope="module")
def local_plan(tmp_path_factory):
  folder = tmp_path_factory.mktemp("plan") / "local"
  arguments = {
    "output_dir": folder,
    "model": _dual_encoder(),
    "batch_size": 16,
    "num_partitions": 2,
    "task_feature_lengths": LENGTHS,
    "find_largest_batch": False,
  }
  return plan.plan(**arguments), arguments


def test_plan_counts_parameters_and_moments_in_fp32(local_plan):
  content, _ = local_plan
  recipe = _recipe()
  step = recipe.make_step(make_mesh(1, jax.local_devices()[:1]), 16)
  count = _count(recipe.model)
  assert count_device_bytes(step.params) == 4 * count
  # Two moments a parameter, and two counters.
  moments = count_device_bytes(step.optimizer_state)
  assert 8 * count <= moments <= 8 * count + 16
  sizes = content["step"]["bytes_per_chip"]
  # Split over two devices, all but biases, norms and small tables.
  assert 4 * count / 2 < sizes["parameters"] < 4 * count * 0.6
  assert 2 * sizes["parameters"] <= sizes["optimizer"]
  assert sizes["total"] == sum(v for k, v in sizes.items() if k != "total")
  # Eight devices in four groups, each with 4 of 16 examples of int32 tokens.
  assert sizes["inputs"] == 4 * (16 + 32 + 32) * 4 + 4


def test_plan_counts_operations_near_the_analytic_figure(local_plan):
  content, _ = local_plan
  matrices = 2 * (4 * 64 * 64 + 2 * 64 * 256)  # of two layers
  tokens = 16 * (16 + 2 * 32)
  # Queries with keys, weights with values: each token with all of its row.
  attended = 16 * (16**2 + 2 * 32**2)
  forward = 2 * matrices * tokens + 2 * 2 * 2 * 64 * attended
  assert content["step"]["flops_per_step"] == pytest.approx(
    3 * forward, rel=0.02
  )
  assert content["step"]["flops_per_step"] > 6 * matrices * tokens


def test_plan_sends_at_least_the_gradients(local_plan):
  content, _ = local_plan
  step = content["step"]
  sent = sum(step["sent_bytes_per_chip"].values())
  # A ring over four groups of devices sends 2 * 3/4 of the gradients.
  assert sent > 1.5 * step["bytes_per_chip"]["parameters"]
  assert "seconds" not in step  # no figures of a CPU are published


def test_plan_is_kept_and_another_is_refused(local_plan, capsys):
  content, arguments = local_plan
  assert plan.plan(**arguments) == json.loads(
    (arguments["output_dir"] / "plan.json").read_text()
  )
  assert "batch 16, mesh 4 x 2 (data x model): fits" in capsys.readouterr().out
  assert content["stage"] == "train"
  with pytest.raises(InputError, match="another batch_size"):
    plan.plan(**(arguments | {"batch_size": 32}))


def test_batch_that_cannot_be_split_is_refused(tmp_path):
  with pytest.raises(InputError, match="BATCH_SIZE 12 cannot be split over 8"):
    plan.plan(output_dir=tmp_path, model=_dual_encoder(), batch_size=12)


def test_step_takes_what_training_makes():
  recipe = Recipe(
    stage="train", model=add_sizes(_dual_encoder(), None), lengths=LENGTHS
  )
  mesh = make_mesh(1, jax.local_devices()[:1])
  step = recipe.make_step(mesh, 2)
  state, batch = step.arguments
  params = jax.eval_shape(recipe.model.init, jax.random.key(0))
  shapes = jax.tree.map(lambda leaf: leaf.shape, params)
  assert shapes == jax.tree.map(lambda leaf: leaf.shape, state.params)
  key = jax.random.key(0)
  loss, _ = jax.eval_shape(recipe.model.loss, params, batch, key)
  assert loss.shape == ()
  assert batch["negative_passage_tokens"].shape == (2, 1, 32)


def test_batch_has_the_shapes_of_the_feature_converter():
  pytest.importorskip("seqio")
  from xqg_jax.seqio_data.feature_converter import DualEncoderFeatureConverter

  model = add_sizes(_dual_encoder(), None)
  lengths = model.get_feature_lengths(LENGTHS)
  found = DualEncoderFeatureConverter(0).get_model_feature_lengths(lengths)
  shapes = model.batch_shapes(lengths, 5)
  assert {name: leaf.shape[1:] for name, leaf in shapes.items()} == {
    name: (size,) if isinstance(size, int) else tuple(size)
    for name, size in found.items()
  }


@pytest.mark.parametrize(
  ("stage", "model", "unit", "num_units"),
  [
    ("encode", _dual_encoder(), "tokens", 8 * 128),
    ("generate", _query_generator(), "queries", 8 * 5),
  ],
)
def test_other_stages_are_planned(tmp_path, stage, model, unit, num_units):
  content = plan.plan(
    output_dir=tmp_path / stage,
    model=model,
    stage=stage,
    batch_size=8,
    max_query_length=4,
    max_input_length=16,
  )
  step = content["step"]
  assert (step["unit"], step["fits"]) == (unit, True)
  assert content["compilations"][0]["num_units"] == num_units
  count = _count(add_sizes(model, None))
  assert step["bytes_per_chip"]["parameters"] == 4 * count
  assert step["bytes_per_chip"]["optimizer"] == 0


def test_decoding_counts_every_step_of_its_loop():
  model = add_sizes(_query_generator(), None)
  mesh = make_mesh(1, jax.local_devices()[:1])

  def count(max_query_length):
    recipe = Recipe(
      stage="generate", model=model, max_query_length=max_query_length
    )
    step = recipe.make_step(mesh, 2)
    return program_costs.count_flops(
      step.trace().jaxpr, unknown_trips=step.unknown_trips
    )

  # The cache is as long as the query: attention grows with its square.
  words = 2 * 2 * 5 * 32 * 256  # logits of a step, 2 prompts x 5 samples
  assert count(8) - count(4) > 4 * words


def test_generating_counts_the_operations_of_all_devices():
  model = add_sizes(_query_generator(), None)

  def count(num_devices):
    mesh = make_mesh(1, jax.local_devices()[:num_devices])
    recipe = Recipe(stage="generate", model=model, max_query_length=4)
    step = recipe.make_step(mesh, 2 * num_devices)
    return program_costs.count_flops(
      step.trace().jaxpr, unknown_trips=step.unknown_trips
    )

  assert count(4) == 4 * count(1)


# ----------------------------------------------------------------- bad requests


@pytest.mark.parametrize(
  ("changes", "line"),
  [
    ({"topology": "v9:2x2"}, "unknown topology 'v9:2x2'; use local, or such"),
    ({"topology": "v5e:2x2x2"}, "'2x2x2' is not a shape of a v5e topology"),
    ({"topology": "v5e:2x"}, "'2x' is not a shape of a v5e topology"),
    ({"stage": "index"}, "no plan for the stage 'index'"),
    ({"stage": "generate"}, "DualEncoderModel does not generate"),
    ({"num_partitions": 3}, "8 devices cannot be split into groups"),
    ({"model": DualEncoderModel()}, "the model's sizes are unknown; add such"),
  ],
)
def test_bad_requests_are_one_line(tmp_path, changes, line):
  arguments = {"output_dir": tmp_path / "plan", "model": _dual_encoder()}
  with pytest.raises(InputError, match=line) as caught:
    plan.plan(**(arguments | changes))
  assert "\n" not in str(caught.value)


def test_missing_libtpu_is_one_line(tmp_path, monkeypatch):
  find = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util,
    "find_spec",
    lambda name, *rest: None if name == "libtpu" else find(name, *rest),
  )
  with pytest.raises(InputError) as caught:
    plan.plan(
      output_dir=tmp_path / "plan", model=_dual_encoder(), topology="v5e:4x4"
    )
  assert str(caught.value) == (
    "planning for v5e:4x4 needs libtpu, which is not installed; run `pip "
    "install 'xqg_jax[tpu-plan]'`"
  )


def test_sizes_are_read_from_a_checkpoint(tmp_path):
  model = _dual_encoder()
  (tmp_path / "config.json").write_text(json.dumps(model.config.to_hf()))
  bare = dataclasses.replace(model, config=None)
  found = add_sizes(bare, tmp_path)
  assert found.config.hidden_size == 64
  assert found.tokenizer is not None


# ------------------------------------------------------------- the program text

PROGRAM = """\
HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%body (state: (s32[], f32[1024])) -> (s32[], f32[1024]) {
  %state = (s32[], f32[1024]{0}) parameter(0)
  %count = s32[] get-tuple-element(%state), index=0
  %values = f32[1024]{0} get-tuple-element(%state), index=1
  %part = f32[256]{0} reduce-scatter(%values), channel_id=3, \
replica_groups=[2,4]<=[8], dimensions={0}, to_apply=%add
  %whole = f32[1024]{0} all-gather(%part), channel_id=4, \
replica_groups=mesh['data'=2,'model'=4] {'model'}, dimensions={0}
  ROOT %next = (s32[], f32[1024]{0}) tuple(%count, %whole)
}

%condition (state: (s32[], f32[1024])) -> pred[] {
  %state = (s32[], f32[1024]{0}) parameter(0)
  ROOT %again = pred[] constant(true)
}

ENTRY %main (x: f32[1024], table: f32[1000,8], ids: s32[2]) -> f32[1024] {
  %x = f32[1024]{0} parameter(0)
  %start = (f32[1024]{0}, f32[1024]{0}) collective-permute-start(%x), \
channel_id=1, source_target_pairs={{0,1},{1,0}}
  %moved = f32[1024]{0} collective-permute-done(%start)
  %reduced = bf16[1024]{0:T(1024)S(1)} all-reduce(%moved), channel_id=2, \
replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  %again = bf16[1024]{0:T(1024)S(1)} all-reduce(%moved), channel_id=2, \
replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  %state = (s32[], f32[1024]{0}) tuple(%zero, %moved)
  %loop = (s32[], f32[1024]{0}) while(%state), condition=%condition, \
body=%body, backend_config={"known_trip_count":{"n":"12"}}
  ROOT %out = f32[1024]{0} get-tuple-element(%loop), index=1
}
"""


def test_collectives_are_read_from_a_program():
  sent = program_costs.count_traffic(PROGRAM, num_devices=8).sent
  assert sent == {
    "all-gather": 12 * 3 / 4 * 4096,
    # The two parts of one operation, of one channel, count once.
    "all-reduce": 2 * 7 / 8 * 2048,
    "collective-permute": 4096.0,
    "reduce-scatter": 12 * 3 * 1024,
  }


def test_a_loop_without_known_length_takes_the_one_given():
  text = PROGRAM.replace('"known_trip_count":{"n":"12"}', "")
  sent = program_costs.count_traffic(text, num_devices=8, unknown_trips=5).sent
  assert sent["reduce-scatter"] == 5 * 3 * 1024


MEMORY_PROGRAM = """\
%lookup (t: f32[1000,8], i: s32[2,1]) -> f32[2,8] {
  %t = f32[1000,8]{1,0} parameter(0)
  %i = s32[2,1]{1,0} parameter(1)
  ROOT %rows = f32[2,8]{1,0} gather(%t, %i), slice_sizes={1,8}
}

ENTRY %main (table: f32[1000,8], ids: s32[2,1]) -> f32[2,8] {
  %table = f32[1000,8]{1,0} parameter(0)
  %ids = s32[2,1]{1,0} parameter(1)
  %rows = f32[2,8]{1,0:S(1)} fusion(%table, %ids), kind=kLoop, calls=%lookup
  ROOT %twice = f32[2,8]{1,0} add(%rows, %rows)
}
"""


def test_a_look_up_reads_only_its_rows():
  # Two rows and two ids; then the sum, from the chip's own memory, is written.
  memory = program_costs.count_traffic(MEMORY_PROGRAM, num_devices=1).memory
  assert memory == 2 * 8 * 4 + 2 * 4 + 2 * 8 * 4


def test_scans_are_counted_whole():
  def repeat(x):
    return jax.lax.scan(lambda y, _: (y @ y, None), x, length=7)[0]

  jaxpr = jax.make_jaxpr(jax.checkpoint(repeat))(np.ones((3, 3), np.float32))
  assert program_costs.count_flops(jaxpr) == 7 * 2 * 27


# -------------------------------------------------------------------- searching


class _Linear:
  """A step whose memory is 100 bytes and 3 for each example."""

  def __init__(self, told=True):
    self.told = told
    self.batches = []

  def __call__(self, recipe, *, topology, num_partitions, batch_size):
    self.batches.append(batch_size)
    total = 100 / num_partitions + 3.0 * batch_size
    exceeds = total > 1000
    return Measured(
      batch_size=batch_size,
      num_partitions=num_partitions,
      num_devices=8,
      num_units=batch_size,
      unit="examples",
      parameter_bytes=25,
      optimizer_bytes=50,
      input_bytes=0,
      total_bytes=total if self.told or not exceeds else None,
      exceeds=exceeds,
      flops=0.0,
      memory_traffic=0.0,
      sent={},
      seconds=0.0,
    )


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("asked", [8, 128, 304, 4096])
def test_search_nearly_fills_the_memory(monkeypatch, asked, told):
  compiler = _Linear(told)
  monkeypatch.setattr(largest_batch, "measure_step", compiler)
  planner = largest_batch.Planner(_recipe(), "v5e:2x4", 1000, 20)
  largest = planner.find_largest(planner.measure(asked, 1))
  assert (0.86 * 1000 - 100) / 3 <= largest.batch_size <= 300
  assert largest.batch_size % 8 == 0
  assert len(compiler.batches) <= (6 if told else 12)
  assert len(set(compiler.batches)) == len(compiler.batches)


def test_search_ends_with_its_budget(monkeypatch):
  compiler = _Linear(told=False)
  monkeypatch.setattr(largest_batch, "measure_step", compiler)
  planner = largest_batch.Planner(_recipe(), "v5e:2x4", 1000, 3)
  assert planner.find_largest(planner.measure(1 << 20, 1)) is None
  assert len(compiler.batches) == 3


def test_parameters_are_split_until_the_batch_fits(monkeypatch):
  monkeypatch.setattr(largest_batch, "measure_step", _Linear())
  planner = largest_batch.Planner(_recipe(), "v5e:2x4", 945, 20)
  asked = planner.measure(304, 1)
  assert not planner.fits(asked)
  assert planner.find_partitions(asked).num_partitions == 4


def test_times_are_bytes_and_operations_over_published_figures():
  measured = dataclasses.replace(
    _Linear()(_recipe(), topology="", num_partitions=1, batch_size=16),
    flops=8 * 197e12,
    memory_traffic=819e9 / 2,
    sent={"all-reduce": 50e9, "all-gather": 100e9},
  )
  group = Group(kind="TPU v5 lite", chip=CHIPS["TPU v5 lite"], shape=(2, 4))
  assert plan.find_times(measured, group.chip, group.shape) == {
    "compute": 1.0,
    "memory": 0.5,
    "interconnect": 1.0,  # three of its four links lead to neighbours
  }
  described = plan.describe(measured, group, 1000)
  assert described["units_per_second"] == 16


def test_topologies_are_read():
  assert parse_topology("v6e:8x8") == ("v6e", (8, 8))
  assert read_group("v4:2x2x1").chip.memory == 32 * 2**30
  assert read_group("local").shape == (8,)
  assert read_group("local").chip is None


# --------------------------------------------------------------------- for TPUs

needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None,
  reason="needs libtpu: pip install 'xqg_jax[tpu-plan]'",
)


@needs_libtpu
def test_a_tiny_recipe_is_compiled_for_a_tpu(tmp_path, capsys):
  environment = dict(os.environ)
  flags = {
    "OUTPUT_DIR": tmp_path / "plan",
    "TOPOLOGY": "v5e:2x2",
    "BATCH_SIZE": 8,
    "FIND_LARGEST_BATCH": False,
    "TRAIN_STEPS": 400,
    "BertConfig.num_hidden_layers": 1,
  }
  command = ["plan", "--gin_file=models/bert_tiny.gin"]
  command += [f"--gin.{name}={value}" for name, value in flags.items()]
  assert main.main(command) == 0
  assert dict(os.environ) == environment
  step = json.loads((tmp_path / "plan" / "plan.json").read_text())["step"]
  sizes = step["bytes_per_chip"]
  assert step["fits"]
  assert step["num_devices"] == 4
  assert 0 < sizes["temporaries"] < 2**25
  assert 0.9 * sizes["total"] < sum(sizes.values()) / 2 < 1.1 * sizes["total"]
  gradients = 2 * 3 / 4 * sizes["parameters"]
  assert step["sent_bytes_per_chip"]["all-reduce"] > 0.4 * gradients
  assert set(step["seconds"]) == {"compute", "memory", "interconnect"}
  assert "examples a second at most" in capsys.readouterr().out


@needs_libtpu
@pytest.mark.slow
def test_a_batch_that_does_not_fit_a_tpu_is_told(tmp_path):
  config = BertConfig(
    vocab_size=128,
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=64,
    max_position_embeddings=130,
  )
  content = plan.plan(
    output_dir=tmp_path / "plan",
    model=DualEncoderModel(
      config=config,
      encoder=DualEncoderConfig(pooling="mean", normalize=True),
      dtype="bfloat16",
    ),
    topology="v5e:2x2",
    batch_size=1 << 18,
    max_compilations=1,
  )
  assert not content["step"]["fits"]
  assert content["step"]["bytes_per_chip"]["total"] > 16 * 2**30
  assert content["largest_batch"] is None
