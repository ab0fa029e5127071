"""Figures of TPUs and GPUs, and topologies to compile for.

`libtpu` compiles for any TPU topology on a machine without one; what the chips
of it can hold and do is known from their makers' data sheets.
"""

import contextlib
import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from jax.experimental import topologies

from xqg_jax.errors import InputError
from xqg_jax.runtime.sharding import Device

LOCAL = "local"
_GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
  """What one chip can hold and do, as published.

  Attributes:
    memory: bytes of HBM.
    flops: bf16 operations a second at most, dense.
    memory_bandwidth: bytes a second between HBM and chip.
    link_bandwidth: bytes a second that leave the chip over one link.
    num_links: links of a chip in a large enough group.
  """

  memory: float
  flops: float
  memory_bandwidth: float
  link_bandwidth: float
  num_links: int

  def interconnect_bandwidth(self, shape: Sequence[int]) -> float:
    """Bytes a second that can leave a chip, over the links it has.

    Args:
      shape: chips along each dimension of the interconnect.

    >>> group = read_group("v5e:4x4")
    >>> CHIPS[group.kind].interconnect_bandwidth(group.shape) / 1e9
    200.0
    """
    return count_links(shape, self.num_links) * self.link_bandwidth


# TPU: docs.cloud.google.com/tpu/docs/v4, /v5e, /v5p and /v6e, read in November
# 2026. v4: 32 GiB, 1,200 GB/s, 275 TFLOP/s, six links of 50 GB/s (Jouppi et al.
# 2023, "TPU v4"). v5e: 16 GB, 819 GB/s, 197 TFLOP/s, 1,600 Gbit/s out of four
# links. v5p: 95 GB, 2,765 GB/s, 459 TFLOP/s, 4,800 Gbit/s out of six. v6e: 32
# GB, 1,638 GB/s, 918 TFLOP/s, 800 GB/s both ways over four. libtpu counts
# their gigabytes of HBM as 2**30 bytes.
# GPU: NVIDIA's data sheets of A100, H100 SXM and H200 SXM: dense bf16 without
# sparsity; NVLink's total is both ways, half of it leaves the chip.
# Keys are what JAX calls the kind of a device.
CHIPS = {
  "TPU v4": Chip(
    memory=32 * _GIB,
    flops=275e12,
    memory_bandwidth=1200e9,
    link_bandwidth=50e9,
    num_links=6,
  ),
  "TPU v5 lite": Chip(
    memory=16 * _GIB,
    flops=197e12,
    memory_bandwidth=819e9,
    link_bandwidth=50e9,
    num_links=4,
  ),
  "TPU v5": Chip(
    memory=95 * _GIB,
    flops=459e12,
    memory_bandwidth=2765e9,
    link_bandwidth=100e9,
    num_links=6,
  ),
  "TPU v6 lite": Chip(
    memory=32 * _GIB,
    flops=918e12,
    memory_bandwidth=1638e9,
    link_bandwidth=100e9,
    num_links=4,
  ),
  "NVIDIA A100-SXM4-80GB": Chip(
    memory=80e9,
    flops=312e12,
    memory_bandwidth=2039e9,
    link_bandwidth=300e9,
    num_links=1,
  ),
  "NVIDIA H100 80GB HBM3": Chip(
    memory=80e9,
    flops=989e12,
    memory_bandwidth=3350e9,
    link_bandwidth=450e9,
    num_links=1,
  ),
  "NVIDIA H200": Chip(
    memory=141e9,
    flops=989e12,
    memory_bandwidth=4800e9,
    link_bandwidth=450e9,
    num_links=1,
  ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Generation:
  """How a kind of TPU is named, and in how many dimensions it is connected."""

  kind: str
  accelerator: str
  num_dimensions: int
  chip_config: str | None = None


# v4 works as one device a chip ("megacore") wherever JAX runs on it.
_GENERATIONS = {
  "v4": _Generation(
    kind="TPU v4", accelerator="v4", num_dimensions=3, chip_config="megacore"
  ),
  "v5e": _Generation(
    kind="TPU v5 lite", accelerator="v5litepod", num_dimensions=2
  ),
  "v5p": _Generation(kind="TPU v5", accelerator="v5p", num_dimensions=3),
  "v6e": _Generation(kind="TPU v6 lite", accelerator="v6e", num_dimensions=2),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
  """Chips that work together, by their published figures.

  Attributes:
    kind: what JAX calls such a device.
    chip: None where no figures are known, as for a CPU.
    shape: chips along each dimension of the interconnect.
  """

  kind: str
  chip: Chip | None
  shape: tuple[int, ...]


def count_links(shape: Sequence[int], num_links: int) -> int:
  """Links of a chip to others of the same group, at most.

  Args:
    shape: chips along each dimension.
    num_links: of a chip in a large group.

  >>> count_links((4, 4), 4), count_links((2, 2, 1), 6), count_links((1, 1), 4)
  (4, 2, 0)
  """
  return min(num_links, sum(min(2, size - 1) for size in shape))


def parse_topology(name: str) -> tuple[str, tuple[int, ...]]:
  """Splits a name into generation and shape; the shape is filled up with 1.

  Raises:
    InputError: an unknown generation, or not a shape of it.

  >>> parse_topology("v5e:4x4"), parse_topology("v4:2x2")
  (('v5e', (4, 4)), ('v4', (2, 2, 1)))
  """
  generation, _, shape = name.partition(":")
  mend = "use local, or such as v5e:4x4, v4:2x2x1, v5p:2x2x1 or v6e:2x4"
  if generation not in _GENERATIONS:
    raise InputError(f"unknown topology {name!r}", mend=mend)
  num_dimensions = _GENERATIONS[generation].num_dimensions
  sizes = tuple(map(int, re.findall(r"\d+", shape)))
  is_shape = re.fullmatch(r"\d+(x\d+)*", shape) and 0 not in sizes
  if not is_shape or len(sizes) > num_dimensions:
    raise InputError(
      f"{shape!r} is not a shape of a {generation} topology, which has "
      f"{num_dimensions} dimensions",
      mend=mend,
    )
  return generation, sizes + (1,) * (num_dimensions - len(sizes))


def read_group(name: str) -> Group:
  """Looks a topology up, without libtpu.

  Args:
    name: `local`, or generation and shape: `v5e:4x4`, `v4:2x2x1` (which is
      also called v4-8).

  Raises:
    InputError: an unknown name.
  """
  if name == LOCAL:
    devices = jax.local_devices()
    kind, shape = devices[0].device_kind, (len(devices),)
  else:
    generation, shape = parse_topology(name)
    kind = _GENERATIONS[generation].kind
  return Group(kind=kind, chip=CHIPS.get(kind), shape=shape)


def find_devices(name: str) -> Sequence[Device]:
  """Finds the devices of a topology, or those of this machine.

  Args:
    name: as for `read_group`. Devices of a TPU topology can only be compiled
      for.

  Raises:
    InputError: an unknown name, a shape that is not built, or no libtpu.
  """
  if name == LOCAL:
    return jax.local_devices()
  check_libtpu(name)
  return _describe_tpus(name, *parse_topology(name))


def check_libtpu(name: str) -> None:
  """Refuses to go on without the compiler for TPUs."""
  if importlib.util.find_spec("libtpu") is None:
    raise InputError(
      f"planning for {name} needs libtpu, which is not installed",
      mend="run `pip install 'xqg_jax[tpu-plan]'`",
    )


def _describe_tpus(
  name: str, generation: str, shape: tuple[int, ...]
) -> Sequence[Device]:
  kind = _GENERATIONS[generation]
  options: dict[str, Any] = {}
  if kind.chip_config is not None:
    options["chip_config_name"] = kind.chip_config
  if math.prod(shape) == 1:  # libtpu takes a host to have 2 x 2 chips
    options["chips_per_host_bounds"] = (1, 1, 1)
  with _pretend_to_have(kind.accelerator, math.prod(shape)):
    try:
      description = topologies.get_topology_desc(
        platform="tpu",
        topology_name=f"{generation}:{'x'.join(map(str, shape))}",
        **options,
      )
    except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
      raise InputError(
        f"libtpu has no topology {name} ({str(error).splitlines()[0]})",
        mend="take a shape that is for rent, such as v5e:4x4",
      ) from None
  return description.devices


@contextlib.contextmanager
def _pretend_to_have(accelerator: str, num_chips: int) -> Iterator[None]:
  """Keeps libtpu from asking a cloud's servers which TPU it is on.

  Several plans may be made at the same time: no TPU is held.
  """
  given = dict(os.environ)
  os.environ.update(
    TPU_SKIP_MDS_QUERY="1",
    TPU_ACCELERATOR_TYPE=f"{accelerator}-{num_chips}",
    TPU_WORKER_HOSTNAMES="localhost",
    ALLOW_MULTIPLE_LIBTPU_LOAD="1",
  )
  try:
    yield
  finally:
    os.environ.clear()
    os.environ.update(given)
