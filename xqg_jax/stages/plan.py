"""Stage `plan`: memory and time of a step on devices not rented yet.

The real step of training, encoding or generating is compiled ahead of time, for
a TPU topology or for this machine's devices, from shapes alone.
"""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

from xqg_jax.io.claims import claim_output_dir
from xqg_jax.io.files import read_json, write_json
from xqg_jax.io.typed_json import Count, Positive
from xqg_jax.planning.compilation import Measured
from xqg_jax.planning.largest_batch import Planner
from xqg_jax.planning.steps import Recipe, add_sizes
from xqg_jax.runtime.chips import LOCAL, Chip, Group, check_libtpu, read_group
from xqg_jax.training.dual_encoder_model import DualEncoderModel
from xqg_jax.training.query_generator_model import QueryGeneratorModel

PLAN_FILE = "plan.json"


class PlannedSizes(TypedDict):
  """What a step takes, in `plan.json`."""

  batch_size: Count
  num_partitions: Positive
  num_devices: Positive
  unit: str
  fits: bool
  bytes_per_chip: dict[str, float | None]
  flops_per_step: float
  memory_traffic_per_chip: NotRequired[float | None]
  sent_bytes_per_chip: NotRequired[dict[str, float]]
  seconds: NotRequired[dict[str, float]]
  bound: NotRequired[str]
  units_per_second: NotRequired[float]


class Plan(TypedDict):
  """Contents of `plan.json`."""

  stage: str
  topology: str
  chip: str
  memory_per_chip: float | None
  step: PlannedSizes
  suggestion: PlannedSizes | None
  largest_batch: PlannedSizes | None


def plan(
  *,
  output_dir: str | os.PathLike,
  model: DualEncoderModel | QueryGeneratorModel,
  stage: str = "train",
  topology: str = LOCAL,
  batch_size: Positive | None = None,
  num_partitions: Positive = 1,
  axis_rules: Sequence[Sequence[Any]] = (),
  find_largest_batch: bool = True,
  max_compilations: Positive = 8,
  memory_per_chip: float | None = None,
  initial_checkpoint_path: str | os.PathLike | None = None,
  task_feature_lengths: Mapping[str, int] | None = None,
  optimizer: str = "adamw",
  weight_decay: float = 0.0,
  gradient_clip: float | None = 1.0,
  num_queries: Positive = 5,
  top_k: Count = 10,
  max_input_length: Positive = 256,
  max_query_length: Positive = 32,
) -> dict[str, Any]:
  """Compiles a stage's step ahead of time and says what it takes.

  Nothing is trained and no parameters are made; the model's sizes are enough.

  Args:
    output_dir: folder for `plan.json`.
    model: `DualEncoderModel` or `QueryGeneratorModel`, as for `train`.
    stage: whose step: `train`, `encode` (dual encoders) or `generate` (query
      generators).
    topology: `local`, or such as `v5e:4x4`, `v4:2x2x1`, `v5p:2x2x2`, `v6e:8x8`.
    batch_size: over all devices: examples (train), packed rows (encode) or
      prompts (generate); None: the stage's own.
    num_partitions: devices over which parameters are split.
    axis_rules: for training, as `train` takes them.
    find_largest_batch: whether to look for the largest batch that fits.
    max_compilations: of all; the search ends with what it has found by then.
    memory_per_chip: bytes, instead of the published figure.
    initial_checkpoint_path: where the sizes are read if the model has none.
    task_feature_lengths: for training, as `train` takes them.
    optimizer: as `train` takes it.
    weight_decay: as `train` takes it.
    gradient_clip: as `train` takes it.
    num_queries: as `generate` takes it.
    top_k: as `generate` takes it.
    max_input_length: as `generate` takes it.
    max_query_length: as `generate` takes it.

  Returns:
    The content of `plan.json`: `step` as asked for, `largest_batch` and
    `suggestion`, and the chip's figures.

  Raises:
    InputError: an unknown topology, no libtpu, a batch that cannot be split, or
      a model without sizes.
  """
  settings = PlanSettings(
    topology=topology,
    batch_size=batch_size,
    num_partitions=num_partitions,
    find_largest_batch=find_largest_batch,
    max_compilations=max_compilations,
    memory_per_chip=memory_per_chip,
  )
  group = read_group(topology)
  if topology != LOCAL:
    check_libtpu(topology)
  recipe = Recipe(
    stage=stage,
    model=add_sizes(model, initial_checkpoint_path),
    lengths=task_feature_lengths,
    optimizer=optimizer,
    weight_decay=weight_decay,
    gradient_clip=gradient_clip,
    axis_rules=axis_rules,
    num_queries=num_queries,
    top_k=top_k,
    max_input_length=max_input_length,
    max_query_length=max_query_length,
  )
  folder = claim_output_dir(
    output_dir, stage="plan", arguments=_describe_claim(recipe, settings)
  )
  if (folder / PLAN_FILE).exists():
    content = read_json(folder / PLAN_FILE, Plan)
  else:
    content = {"stage": stage, "topology": topology, "chip": group.kind}
    content |= _measure(recipe, group, settings)
    write_json(folder / PLAN_FILE, content)
  print(format_plan(content))
  return content


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanSettings:
  """Where a step is planned for, and what is looked for there.

  Attributes are arguments of `plan` of the same names.
  """

  topology: str
  batch_size: int | None
  num_partitions: int
  find_largest_batch: bool
  max_compilations: int
  memory_per_chip: float | None


def _describe_claim(recipe: Recipe, settings: PlanSettings) -> dict[str, Any]:
  """What decides a plan, by the names of `plan`'s arguments."""
  fields = (field.name for field in dataclasses.fields(recipe))
  described = {name: getattr(recipe, name) for name in fields}
  lengths = described.pop("lengths")
  return {
    **dataclasses.asdict(settings),
    **described,
    "task_feature_lengths": lengths,
    "model": recipe.model.describe(),
  }


def _measure(
  recipe: Recipe, group: Group, settings: PlanSettings
) -> dict[str, Any]:
  memory = settings.memory_per_chip or (group.chip and group.chip.memory)
  planner = Planner(
    recipe, settings.topology, memory, settings.max_compilations
  )
  asked = planner.measure(settings.batch_size, settings.num_partitions)
  largest = suggested = None
  if not planner.fits(asked):
    suggested = planner.find_partitions(asked)
  if settings.find_largest_batch and planner.memory is not None:
    largest = planner.find_largest(asked)
  described = {
    name: found and describe(found, group, planner.memory)
    for name, found in (
      ("step", asked),
      ("suggestion", suggested),
      ("largest_batch", largest),
    )
  }
  return {
    "memory_per_chip": planner.memory,
    **described,
    "compilations": [dataclasses.asdict(m) for m in planner.measured.values()],
  }


def describe(
  measured: Measured, group: Group, memory: float | None
) -> dict[str, Any]:
  """What a step takes and how fast it can be at most, for `plan.json`.

  The roofline is the longest of three times: of the matrix products at the
  chip's peak, of the bytes between chip and main memory, and of the bytes sent
  to other chips. A real step takes longer.

  Args:
    measured: the compiled step.
    group: the chips.
    memory: bytes of a chip.
  """
  content = {
    name: getattr(measured, name)
    for name in ("batch_size", "num_partitions", "num_devices", "unit")
  }
  content["fits"] = measured.fits(memory)
  content["bytes_per_chip"] = {
    "parameters": measured.parameter_bytes,
    "optimizer": measured.optimizer_bytes,
    "inputs": measured.input_bytes,
    "temporaries": measured.temporary_bytes,
    "total": measured.total_bytes,
  }
  content["flops_per_step"] = measured.flops
  if measured.sent is None:
    return content
  content["memory_traffic_per_chip"] = measured.memory_traffic
  content["sent_bytes_per_chip"] = measured.sent
  if group.chip is not None:
    times = find_times(measured, group.chip, group.shape)
    bound = max(times, key=lambda name: times[name])
    content["seconds"] = times
    content["bound"] = bound
    content["units_per_second"] = measured.num_units / times[bound]
  return content


def find_times(
  measured: Measured, chip: Chip, shape: Sequence[int]
) -> dict[str, float]:
  """The least seconds of a step for computing, memory and interconnect.

  Args:
    measured: the compiled step, with its traffic.
    chip: the figures of one of its devices.
    shape: chips along each dimension of the interconnect.
  """
  sent = sum((measured.sent or {}).values())
  return {
    "compute": measured.flops / measured.num_devices / chip.flops,
    "memory": (measured.memory_traffic or 0.0) / chip.memory_bandwidth,
    "interconnect": sent / chip.interconnect_bandwidth(shape) if sent else 0.0,
  }


# ------------------------------------------------------------------------- text


def format_plan(content: Mapping[str, Any]) -> str:
  """The plan as the lines that are printed."""
  lines = [
    f"{content['stage']} on {content['topology']} ({content['chip']}), "
    f"{_size(content['memory_per_chip'])} a chip"
  ]
  titles = {
    "step": "as asked",
    "suggestion": "suggested mesh",
    "largest_batch": "largest batch found",
  }
  for name, title in titles.items():
    if content[name] is not None:
      lines += ["", *_format_step(title, content[name])]
  if not content["step"]["fits"] and content["suggestion"] is None:
    lines += ["", "no split of the parameters makes the batch fit"]
  return "\n".join(lines)


def _format_step(title: str, step: Mapping[str, Any]) -> list[str]:
  data = step["num_devices"] // step["num_partitions"]
  fits = "fits" if step["fits"] else "DOES NOT FIT"
  sizes = step["bytes_per_chip"]
  lines = [
    f"{title}: batch {step['batch_size']:,}, mesh {data} x "
    f"{step['num_partitions']} (data x model): {fits}",
    *(f"  {name:<26}{_size(size):>14}" for name, size in sizes.items()),
    f"  {'TFLOP a step, all chips':<26}{step['flops_per_step'] / 1e12:>14.4g}",
  ]
  if "sent_bytes_per_chip" in step:
    sent = sum(step["sent_bytes_per_chip"].values())
    moved = step.get("memory_traffic_per_chip")
    lines += [
      f"  {'memory traffic a chip':<26}{_size(moved):>14}",
      f"  {'sent to other chips':<26}{_size(sent):>14}",
    ]
  for name, seconds in step.get("seconds", {}).items():
    mark = " <- at least" if name == step.get("bound") else ""
    lines.append(f"  {name + ', ms':<26}{seconds * 1e3:>14.4g}{mark}")
  if "units_per_second" in step:
    rate = f"{step['units_per_second']:,.0f}"
    lines.append(f"  {step['unit'] + ' a second at most':<26}{rate:>14}")
  return lines


def _size(size: float | None) -> str:
  """A number of bytes for the eye.

  >>> _size(3 * 2**30), _size(1000)
  ('3.00 GiB', '0.98 KiB')
  """
  if size is None:
    return "unknown"
  power = min(4, max(1, int(math.log2(max(size, 1))) // 10))
  return f"{size / 1024**power:.2f} {' KMGT'[power]}iB"
