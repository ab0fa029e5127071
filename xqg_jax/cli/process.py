"""Process set-up: memory allocation and the cache of compiled programs."""

import ctypes
import hashlib
import os
import pathlib
import platform
import sys

from xqg_jax.io.files import find_cache_folder
from xqg_jax.runtime import cpu_forms

# Parameters of mallopt(3), from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_INT_MAX = 2**31 - 1

_VARIABLE = "JAX_COMPILATION_CACHE_DIR"


def keep_compiled_programs() -> bool:
  """Has JAX keep what takes over a second to compile; call it before JAX loads.

  `JAX_COMPILATION_CACHE_DIR` goes before the folder chosen here, which is
  another for each kind of processor: machine code of one may not run on others.

  Returns:
    Whether it is in time.
  """
  if "jax" in sys.modules:
    return False
  folder = find_cache_folder() / _name_processor()
  os.environ.setdefault(_VARIABLE, str(folder))
  return True


def _name_processor() -> str:
  """A name that processors with other instructions do not have."""
  described = platform.processor()
  cpu_info = pathlib.Path("/proc/cpuinfo")
  if cpu_info.exists():
    lines = cpu_info.read_text().splitlines()
    described += next((x for x in lines if x.startswith("flags")), "")
  digest = hashlib.sha256(described.encode()).hexdigest()[:12]
  return f"{platform.machine()}-{digest}"


def keep_freed_memory() -> bool:
  """Sets glibc's allocator so; returns whether there is one to set.

  Call it before the first large allocation.
  """
  if not sys.platform.startswith("linux") or not cpu_forms.are_on():
    return False
  mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
  if mallopt is None:  # another C library
    return False
  settings = (
    (_M_MMAP_MAX, 0),
    (_M_ARENA_MAX, 1),
    (_M_TRIM_THRESHOLD, _INT_MAX),
    (_M_TOP_PAD, 2**28),
  )
  return {mallopt(name, value) for name, value in settings} == {1}
