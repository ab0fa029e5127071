"""CPU forms: computations arranged for XLA's CPU, and the switch for them.

They compute the same as the forms for other devices, but for rounding. With
`XQG_CPU_FORMS=0` in the environment CPUs take the others' forms:

  models/layers/cpu/            products and attention in bfloat16, GELU
  models/bert/family.py         queries, keys and values from one product
  generation/sampling.py        top-k by passes
  generation/decoding.py        masks as rows of the output layer
  indexes/exact/cpu_search.py   rounded scan, choice on the host
  cli/process.py                freed memory is kept

The switch is read when a program is traced.
"""

import os
from collections.abc import Callable
from typing import Any

_VARIABLE = "XQG_CPU_FORMS"


def are_on() -> bool:
  """Whether CPUs take their own forms."""
  return os.environ.get(_VARIABLE) != "0"


def are_for(device: Any) -> bool:
  """Whether the CPU forms are what a device takes."""
  return device.platform == "cpu" and are_on()


def by_platform(
  *operands: Any, cpu: Callable, default: Callable, **others: Callable
) -> Any:
  """`jax.lax.platform_dependent` with the switch on its `cpu`."""
  # Not at the top: the command line asks for the switch before it loads jax.
  import jax

  if are_on():
    others["cpu"] = cpu
  return jax.lax.platform_dependent(*operands, default=default, **others)
