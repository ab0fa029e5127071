"""FLOPs, memory traffic and communication of compiled programs.

XLA's own cost analysis counts the body of a loop once. Here a compiled
program's text is read as a tree of computations, each with the number of times
that it runs, and a traced program's products are counted the same way.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

_COMPUTATION = re.compile(r"^(?:(ENTRY)\s+)?%?([\w.\-]+)\s*\(.*\)\s*->.*\{\s*$")
_INSTRUCTION = re.compile(
  r"^\s*(?:ROOT\s+)?%?([\w.\-]+) = (.*?)\s([a-z][a-z0-9\-]*)\((.*)$"
)
_CALLED = re.compile(
  r"(?:calls|to_apply|body|condition|async_execution|true_computation"
  r"|false_computation)=%?([\w.\-]+)"
  r"|(?:branch_computations|called_computations|calls)=\{([^}]*)\}"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_ARRAY = re.compile(r"\b([a-z]+[0-9]*[a-z0-9]*)\[([\d,]*)\](\{[^}]*\})?")
_OPERAND = re.compile(r"%([\w.\-]+)")
_LISTED_GROUPS = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_COUNTED_GROUPS = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=")
_MESH_GROUPS = re.compile(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}")
_CHANNEL = re.compile(r"channel_id=(\d+)")

COLLECTIVES = (
  "all-reduce",
  "all-gather",
  "reduce-scatter",
  "all-to-all",
  "collective-permute",
)
# They name values without touching memory, or their start has been counted.
_FREE = (
  "parameter",
  "constant",
  "tuple",
  "get-tuple-element",
  "bitcast",
  "after-all",
  "while",
  "conditional",
  "call",
  "partition-id",
  "replica-id",
)
_READ_PARTS = ("gather", "dynamic-slice", "slice")
_WRITE_PARTS = ("scatter", "dynamic-update-slice")
_MOVES = ("copy-start", "slice-start", "dynamic-slice-start")


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a compiled program.

  Attributes:
    name: of its result.
    opcode: what it does.
    shape: text of the result's type.
    rest: operands and attributes.
  """

  name: str
  opcode: str
  shape: str
  rest: str


@dataclasses.dataclass(frozen=True)
class Traffic:
  """What one execution of a program moves, for each device.

  Attributes:
    sent: bytes that a device sends to others, by kind of operation.
    memory: bytes that it reads from and writes to its main memory.
  """

  sent: dict[str, float]
  memory: float


def count_traffic(
  text: str, *, num_devices: int, unknown_trips: int = 1
) -> Traffic:
  """Counts what a compiled program moves.

  Args:
    text: of the program (`compiled.as_text()`).
    num_devices: in a collective operation that names no groups.
    unknown_trips: how often a loop runs of which the compiler cannot tell.

  >>> program = '''
  ... ENTRY %main (x: f32[256]) -> f32[256] {
  ...   %x = f32[256]{0} parameter(0)
  ...   ROOT %sum = f32[256]{0} all-reduce(%x), replica_groups={{0,1,2,3}}
  ... }
  ... '''

  Each of four devices sends 2 * 3/4 of 1,024 bytes:

  >>> count_traffic(program, num_devices=4).sent
  {'all-reduce': 1536.0}
  """
  computations, entry = parse_program(text)
  runs = _count_runs(computations, entry, unknown_trips)
  fused = _find_fused(computations)
  memory = sum(
    runs.get(name, 0) * _count_memory_bytes(instructions, computations)
    for name, instructions in computations.items()
    if name not in fused
  )
  return Traffic(_count_sent(computations, runs, num_devices), memory)


def _count_sent(
  computations: Mapping[str, list[Instruction]],
  runs: Mapping[str, int],
  num_devices: int,
) -> dict[str, float]:
  # A TPU takes one operation apart and fuses its parts with others: they keep
  # the channel of the whole, and each shows the whole's shape.
  channels: dict[tuple[str, str], float] = {}
  for computation, instructions in computations.items():
    for instruction in instructions:
      kind = instruction.opcode.removesuffix("-start")
      if kind in COLLECTIVES and computation in runs:
        found = _CHANNEL.search(instruction.rest)
        key = kind, found[1] if found else f"{computation}/{instruction.name}"
        sent = count_sent_bytes(instruction, num_devices) * runs[computation]
        channels[key] = max(sent, channels.get(key, 0.0))
  totals = dict.fromkeys(sorted({kind for kind, _ in channels}), 0.0)
  for (kind, _), sent in channels.items():
    totals[kind] += sent
  return totals


def parse_program(text: str) -> tuple[dict[str, list[Instruction]], str]:
  """Splits a program into computations; returns them and the entry's name."""
  computations: dict[str, list[Instruction]] = {}
  entry, current = "", None
  for line in text.splitlines():
    if header := _COMPUTATION.match(line):
      current = computations.setdefault(header[2], [])
      entry = header[2] if header[1] else entry
    elif line.startswith("}"):
      current = None
    elif current is not None and (found := _INSTRUCTION.match(line)):
      name, shape, opcode, rest = found.groups()
      current.append(Instruction(name, opcode, shape, rest))
  return computations, entry


def _called(instruction: Instruction) -> Iterator[str]:
  for one, several in _CALLED.findall(instruction.rest):
    yield from [one] if one else re.findall(r"%?([\w.\-]+)", several)


def _count_runs(
  computations: Mapping[str, list[Instruction]], entry: str, unknown_trips: int
) -> dict[str, int]:
  """How often each computation runs that `entry` reaches."""
  runs: dict[str, int] = {}

  def visit(name: str, times: int) -> None:
    runs[name] = runs.get(name, 0) + times
    for instruction in computations.get(name, ()):
      trips = 1
      if instruction.opcode == "while":
        known = _TRIPS.search(instruction.rest)
        trips = int(known[1]) if known else unknown_trips
      for called in _called(instruction):
        visit(called, times * trips)

  visit(entry, 1)
  return runs


def _find_fused(computations: Mapping[str, list[Instruction]]) -> set[str]:
  """Computations whose inner values never reach memory."""
  structural = ("while", "conditional", "call", "async-start")
  return {
    called
    for instructions in computations.values()
    for instruction in instructions
    if instruction.opcode not in structural
    for called in _called(instruction)
  }


def count_bytes(shape: str, *, main_memory: bool = False) -> float:
  """Bytes of the arrays in the text of a type.

  Args:
    shape: the text.
    main_memory: leaves out what lies in a chip's own memory (`S(1)`).

  >>> count_bytes("(bf16[8,128]{1,0:T(8,128)(2,1)}, s32[])")
  2052.0
  """
  total = 0.0
  for dtype, sizes, layout in _ARRAY.findall(shape):
    if main_memory and "S(" in layout:
      continue
    bits = re.search(r"\d+", dtype)
    width = int(bits[0]) / 8 if bits else 1 if dtype == "pred" else 0
    total += width * math.prod(int(n) for n in sizes.split(",") if n)
  return total


def _count_memory_bytes(
  instructions: list[Instruction],
  computations: Mapping[str, list[Instruction]],
) -> float:
  """Bytes that unfused instructions read from and write to main memory."""
  shapes = {i.name: i.shape for i in instructions}
  total = 0.0
  for instruction in instructions:
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith("-done"):
      continue
    if opcode.endswith("-start") and opcode not in _MOVES:
      continue  # its bytes are those of the fused or collective operation
    operands = _operands(instruction)
    if opcode == "fusion":
      inner = computations[next(_called(instruction))]
      total += _count_fusion_bytes(instruction, operands, shapes, inner)
    elif opcode in _MOVES:
      total += _count_move_bytes(instruction)
    elif opcode in _READ_PARTS:
      total += 2 * count_bytes(instruction.shape, main_memory=True)
    elif opcode in _WRITE_PARTS:
      parts = [shapes.get(n, "") for n in operands[1:]]
      total += 2 * sum(count_bytes(s, main_memory=True) for s in parts)
    else:
      named = [instruction.shape, *(shapes.get(n, "") for n in operands)]
      total += sum(count_bytes(s, main_memory=True) for s in named)
  return total


def _operands(instruction: Instruction) -> list[str]:
  return _OPERAND.findall(instruction.rest.partition(")")[0])


def _count_move_bytes(instruction: Instruction) -> float:
  """An asynchronous copy: its result, at the end that is in main memory."""
  arrays = re.findall(r"\w+\[[\d,]*\]\{[^}]*\}", instruction.shape)
  moved = min((count_bytes(a) for a in arrays[:2]), default=0.0)
  return moved * sum("S(" not in array for array in arrays[:2])


def _count_fusion_bytes(
  fusion: Instruction,
  operands: list[str],
  shapes: Mapping[str, str],
  inner: list[Instruction],
) -> float:
  """Reads of operands, where only parts are used those, and the results."""
  users: dict[str, list[tuple[Instruction, int]]] = {}
  for instruction in inner:
    for place, name in enumerate(_operands(instruction)):
      users.setdefault(name, []).append((instruction, place))
  by_name = {i.name: i.shape for i in inner}
  total = count_bytes(fusion.shape, main_memory=True)
  for parameter in (i for i in inner if i.opcode == "parameter"):
    index = int(parameter.rest.partition(")")[0])
    shape = shapes.get(operands[index], "") if index < len(operands) else ""
    whole = count_bytes(shape, main_memory=True)
    uses = users.get(parameter.name, [])
    reads = [u for u, place in uses if u.opcode in _READ_PARTS and place == 0]
    writes = [u for u, place in uses if u.opcode in _WRITE_PARTS and place == 0]
    if whole and uses and len(reads) + len(writes) == len(uses):
      parts = sum(count_bytes(u.shape) for u in reads)
      # Written in place: neither the rest of it is read nor written.
      updates = sum(
        count_bytes(by_name.get(name, ""))
        for u in writes
        for name in _operands(u)[1:]
      )
      total += min(whole, parts + updates) - (whole if writes else 0.0)
      total += updates if writes else 0.0
    else:
      total += whole
  return total


def count_sent_bytes(instruction: Instruction, num_devices: int) -> float:
  """Bytes that each device sends in a collective operation, by rings.

  Args:
    instruction: the operation, or its asynchronous start.
    num_devices: in it, if it names no groups.
  """
  size = _group_size(instruction.rest) or num_devices
  kind = instruction.opcode.removesuffix("-start")
  is_start = instruction.opcode.endswith("-start")
  result = count_bytes(instruction.shape)
  if is_start and kind == "all-gather":  # operand and result
    result *= size / (size + 1)
  elif is_start and kind == "collective-permute":
    result /= 2
  share = (size - 1) / size
  return {
    "all-reduce": 2 * share * result,
    "all-gather": share * result,
    "reduce-scatter": (size - 1) * result,
    "all-to-all": share * result,
    "collective-permute": result,
  }[kind]


def _group_size(rest: str) -> int | None:
  """Devices that work together, in one of the three ways to write groups."""
  if named := _MESH_GROUPS.search(rest):
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
    # An axis may be split: 'data':(2)4 is a part of size 4 of it.
    used = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", named[2])
    return math.prod(int(part or sizes[axis]) for axis, part in used)
  if counted := _COUNTED_GROUPS.search(rest):
    return int(counted[2])
  if listed := _LISTED_GROUPS.search(rest):
    return len(listed[1].split(","))
  return None


# -------------------------------------------------------------- traced programs


def count_flops(jaxpr: Any, *, unknown_trips: int = 1) -> float:
  """Operations of all matrix products of a traced program, over all devices.

  Args:
    jaxpr: of the whole program (`jax.make_jaxpr` or `traced.jaxpr`).
    unknown_trips: how often a `while_loop` runs.

  >>> import jax, numpy as np
  >>> program = jax.make_jaxpr(lambda a, b: a @ b)
  >>> count_flops(program(np.ones((2, 3)), np.ones((3, 5))))
  60.0
  """
  jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
  total = 0.0
  for equation in jaxpr.eqns:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
      total += _product_flops(equation)
    inner = [
      count_flops(sub, unknown_trips=unknown_trips)
      for sub in _inner_programs(params)
    ]
    if name == "cond":
      total += max(inner)
    else:
      runs = {"scan": params.get("length"), "while": unknown_trips}
      if name == "shard_map":  # its body is one device's part
        runs[name] = params["mesh"].size
      total += runs.get(name, 1) * sum(inner)
  return total


def _inner_programs(params: Mapping[str, Any]) -> Iterator[Any]:
  """The programs that an equation runs: its body, its branches."""
  for value in params.values():
    for item in value if isinstance(value, (tuple, list)) else (value,):
      program = getattr(item, "jaxpr", item)
      if hasattr(program, "eqns"):
        yield program


def _product_flops(equation: Any) -> float:
  (contracted, _), _ = equation.params["dimension_numbers"]
  left = equation.invars[0].aval.shape
  outputs = math.prod(equation.outvars[0].aval.shape)
  return 2.0 * outputs * math.prod(left[axis] for axis in contracted)
