"""Steps of training, encoding and generating, built from shapes alone.

No parameter is made and no checkpoint read: a model's sizes are enough to trace
the very function that a stage runs, with the shapes and places of what it will
be given.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool

from xqg_jax.checkpoints.folders import CONFIG_FILE, find_folder
from xqg_jax.encoding import embedder
from xqg_jax.encoding.batches import choose_rows_per_batch
from xqg_jax.errors import InputError
from xqg_jax.generation.decoding import Sampling, Slots
from xqg_jax.generation.refilling import Queue, decode_queue, empty_slots
from xqg_jax.generation.slot_decoder import GROUPS, bucket_lengths, is_for_cpu
from xqg_jax.io.files import read_json
from xqg_jax.io.paths import to_path
from xqg_jax.models.dual_encoder.text_embedder import TextEmbedder
from xqg_jax.models.encoder_families import read_encoder_config
from xqg_jax.models.parameters import param_shapes
from xqg_jax.models.t5.network import T5, T5Config
from xqg_jax.runtime.sharding import (
  DATA,
  batch_sharding,
  override_rules,
  replicated,
)
from xqg_jax.text.packing import get_num_segments
from xqg_jax.text.tokenizer_training import train_tokenizer
from xqg_jax.training.dual_encoder_model import DualEncoderModel
from xqg_jax.training.optimizers import make_optimizer, make_schedule
from xqg_jax.training.query_generator_model import QueryGeneratorModel
from xqg_jax.training.state import Trainer
from xqg_jax.training.trainable import TrainableModel, completed

# Vectors that stay on the device while a shard is encoded: its passages and
# their query sums (`encoding.encode`).
_ENCODED_TARGETS = 2 * 8192


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlannedStep:
  """A step, with its arguments as shapes in their places.

  Attributes:
    function: jitted, as the stage runs it.
    arguments: trees of `jax.ShapeDtypeStruct` with shardings.
    options: static arguments.
    params: those of `arguments` that are parameters.
    optimizer_state: those that are the optimizer's.
    num_units: how much a step does.
    unit: of what.
    unknown_trips: how often a loop runs that ends when all rows have ended.
  """

  function: Any
  arguments: tuple[Any, ...]
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  params: Any
  optimizer_state: Any = ()
  num_units: int
  unit: str
  unknown_trips: int = 1

  def trace(self) -> Any:
    """Traces the step (`jax.stages.Traced`)."""
    return self.function.trace(*self.arguments, **self.options)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
  """What decides a step, beside the mesh and the batch.

  Attributes:
    stage: whose step it is.
    model: with its sizes.
    lengths: of the task's features, for training.
    optimizer: `adamw` or `adafactor`, for training.
    weight_decay: as `train` takes it.
    gradient_clip: as `train` takes it.
    axis_rules: as `train` takes them.
    num_queries: of each prompt, for generating.
    top_k: tokens to draw from, for generating.
    max_input_length: tokens of a prompt, for generating.
    max_query_length: tokens of a query, for generating.
  """

  stage: str
  model: TrainableModel
  lengths: Mapping[str, int] | None = None
  optimizer: str = "adamw"
  weight_decay: float = 0.0
  gradient_clip: float | None = 1.0
  axis_rules: Sequence[Sequence[Any]] = ()
  num_queries: int = 5
  top_k: int = 10
  max_input_length: int = 256
  max_query_length: int = 32

  def __post_init__(self):
    wanted = {"encode": DualEncoderModel, "generate": QueryGeneratorModel}
    kind = wanted.get(self.stage, TrainableModel)
    if self.stage not in ("train", *wanted):
      raise InputError(
        f"no plan for the stage {self.stage!r}",
        mend="set STAGE to train, encode or generate",
      )
    if not isinstance(self.model, kind):
      raise InputError(
        f"{type(self.model).__name__} does not {self.stage}",
        mend=f"set MODEL to a {kind.__name__}",
      )

  def make_step(self, mesh: Mesh, batch_size: int) -> PlannedStep:
    """The step for a batch over all devices of a mesh."""
    makers = {
      "train": _make_training_step,
      "encode": _make_encoding_step,
      "generate": _make_generation_step,
    }
    return makers[self.stage](self, mesh, batch_size)

  def default_batch_size(self, mesh: Mesh) -> int:
    """The stage's own: examples, rows of tokens or prompts of all devices."""
    if self.stage == "encode":
      return choose_rows_per_batch(max_length=self.row_length, mesh=mesh)[
        self.row_length
      ]
    return 128 if self.stage == "train" else 64 * mesh.shape[DATA]

  @property
  def row_length(self) -> int:
    """Tokens of the widest rows that `encode` packs texts into."""
    config = completed(_as_dual_encoder(self).encoder)
    longest = max(config.query_length, config.passage_length)
    return next((n for n in (128, 512) if n >= longest), longest)


def add_sizes(
  model: DualEncoderModel | QueryGeneratorModel,
  checkpoint_path: str | os.PathLike | None,
) -> DualEncoderModel | QueryGeneratorModel:
  """Completes a model as `train` does, but without its checkpoint's tensors.

  Of the tokenizer only padding matters to a step's shapes, so that a tiny one
  stands in for it.

  Args:
    model: as gin made it.
    checkpoint_path: where `config.json` is read if the model has no sizes.

  Raises:
    InputError: no sizes, or what `complete` says of the model.
  """
  config = model.config
  is_generator = isinstance(model, QueryGeneratorModel)
  if config is None and checkpoint_path is not None:
    path = to_path(checkpoint_path) / CONFIG_FILE
    if not path.is_file():  # a hub name, or one step in a MODEL_DIR
      path = find_folder(checkpoint_path)[0] / CONFIG_FILE
    read = T5Config.from_hf if is_generator else read_encoder_config
    config = read(read_json(path, dict[str, Any]), where=path)
  if config is None:
    raise InputError(
      "the model's sizes are unknown",
      mend="add such as --gin_file=sizes/xlmr_base.gin, or "
      "--gin.INITIAL_CHECKPOINT_PATH=...",
    )
  style = "t5" if is_generator else "bert"
  stand_in = train_tokenizer(["ab"], vocab_size=8, style=style)
  model = dataclasses.replace(model, config=config, tokenizer=stand_in)
  return model.complete(None)[0]


# -------------------------------------------------------------------- the steps


def _as_dual_encoder(recipe: Recipe) -> DualEncoderModel:
  return cast(DualEncoderModel, recipe.model)  # as `Recipe` has checked


def _make_training_step(
  recipe: Recipe, mesh: Mesh, batch_size: int
) -> PlannedStep:
  schedule = make_schedule(
    schedule="linear", learning_rate=1e-4, train_steps=1000
  )
  optimizer = make_optimizer(
    optimizer=recipe.optimizer,
    learning_rate=schedule,
    weight_decay=recipe.weight_decay,
    gradient_clip=recipe.gradient_clip,
  )
  trainer = Trainer(
    recipe.model, optimizer, mesh, 0, override_rules(recipe.axis_rules)
  )
  state = _place(trainer.shapes, trainer.shardings)
  lengths = recipe.model.get_feature_lengths(recipe.lengths)
  shapes = recipe.model.batch_shapes(lengths, batch_size)
  by_row = batch_sharding(mesh)
  batch = _place(shapes, dict.fromkeys(shapes, by_row))
  return PlannedStep(
    function=trainer.step,
    arguments=(state, batch),
    params=state.params,
    optimizer_state=state.opt_state,
    num_units=batch_size,
    unit="examples",
  )


def _make_encoding_step(
  recipe: Recipe, mesh: Mesh, batch_size: int
) -> PlannedStep:
  model = _as_dual_encoder(recipe)
  encoder = TextEmbedder(model.module, completed(model.encoder))
  everywhere = replicated(mesh)
  length = recipe.row_length
  segments = get_num_segments(length)
  shapes = param_shapes(model.network)
  params = _place(shapes, jax.tree.map(lambda _: everywhere, shapes))
  rows = functools.partial(_integers, sharding=batch_sharding(mesh))
  sums = jax.ShapeDtypeStruct(
    (_ENCODED_TARGETS, encoder.dim), jnp.float32, sharding=everywhere
  )
  return PlannedStep(
    function=embedder.add_batch,
    arguments=(
      embedder.ProgramKey(encoder, mesh),
      encoder.config.to_side("passage"),
      params,
      sums,
      *(rows(batch_size, length) for _ in range(3)),
      rows(batch_size, segments),
      _integers(batch_size * segments, sharding=everywhere),
    ),
    params=params,
    num_units=batch_size * length,
    unit="tokens",
  )


def _make_generation_step(
  recipe: Recipe, mesh: Mesh, batch_size: int
) -> PlannedStep:
  """A call that lets as many prompts in as there are slots, and as many out.

  Slots at work finish evenly, so that each group of prompts waits for its share
  of a query's steps.
  """
  module = cast(QueryGeneratorModel, recipe.model).module
  shapes = param_shapes(module)
  everywhere = replicated(mesh)
  params = _place(shapes, jax.tree.map(lambda _: everywhere, shapes))
  num_slots = -(-batch_size // mesh.shape[DATA])
  group_size = -(-num_slots // GROUPS)
  num_groups = -(-num_slots // group_size)
  slots = jax.eval_shape(
    lambda: vars(
      empty_slots(
        module,
        mesh=mesh,
        num_slots=num_slots,
        num_samples=recipe.num_queries,
        prompt_length=bucket_lengths(recipe.max_input_length)[-1],
        max_length=recipe.max_query_length,
      )
    )
  )
  by_slot = NamedSharding(mesh, PartitionSpec(DATA))
  num_tokens = module.config.vocab_size
  allowed = jax.ShapeDtypeStruct((1, num_tokens), bool, sharding=everywhere)
  queue = _make_queue(recipe, mesh, num_groups, group_size)
  return PlannedStep(
    function=_decode_queue,
    arguments=(
      module,
      params,
      _place(slots, jax.tree.map(lambda _: by_slot, slots)),
      queue,
      allowed,
    ),
    options={
      "mesh": mesh,
      "sampling": Sampling(top_k=recipe.top_k),
      "for_cpu": is_for_cpu(mesh, num_tokens),
    },
    params=params,
    num_units=batch_size * recipe.num_queries,
    unit="queries",
    unknown_trips=-(-recipe.max_query_length // num_groups),
  )


def _make_queue(
  recipe: Recipe, mesh: Mesh, num_groups: int, group_size: int
) -> dict[str, jax.ShapeDtypeStruct]:
  """The shapes of the groups that fill the slots once, in their places."""
  split = NamedSharding(mesh, PartitionSpec(None, DATA))
  rows = (num_groups, group_size * mesh.shape[DATA])
  samples = (*rows, recipe.num_queries)
  integers = functools.partial(_integers, sharding=split)
  return {
    "prompts": integers(*rows, bucket_lengths(recipe.max_input_length)[-1]),
    "keys": jax.ShapeDtypeStruct((*samples, 2), jnp.uint32, sharding=split),
    "owner": integers(*rows),
    "table": integers(*samples),
    "forced": integers(*samples, 0),
    "wait_for": integers(num_groups, mesh.shape[DATA]),
  }


@functools.partial(
  jax.jit,
  static_argnames=("module", "mesh", "sampling", "for_cpu"),
  donate_argnames="slots",
)
def _decode_queue(
  module: T5,
  params: Mapping[str, Any],
  slots: Mapping[str, Any],
  queue: Mapping[str, Any],
  allowed: Bool[Array, "tables vocab"],
  **options: Any,
) -> list[Array]:
  """`decode_queue` with the fields of slots and queue, which may be shapes."""
  found = decode_queue(
    module, params, Slots(**slots), Queue(**queue), allowed, **options
  )
  return jax.tree.leaves(found)


def _integers(*shape: int, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, jnp.int32, sharding=sharding)


def _place(shapes: Any, shardings: Any) -> Any:
  """Adds its place to each shape of a tree."""
  return jax.tree.map(
    lambda shape, sharding: jax.ShapeDtypeStruct(
      shape.shape, shape.dtype, sharding=sharding
    ),
    shapes,
    shardings,
  )


def count_device_bytes(tree: Any) -> int:
  """Bytes that one device holds of a tree of shapes with shardings."""
  return sum(
    int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
    if isinstance(leaf, jax.ShapeDtypeStruct)
  )
