"""Keeps the C library from handing large buffers back to the system.

XLA on CPU allocates its scratch space anew for every step; glibc maps anything
over 32 MB afresh each time, so that a training step spends a quarter of its
time in page faults. Keeping freed memory in the process ends that.
"""

import ctypes
import sys

# Parameters of mallopt(3), from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_INT_MAX = 2**31 - 1


def keep_freed_memory() -> bool:
  """Sets glibc's allocator so; returns whether there is one to set.

  Call it before the first large allocation.
  """
  if not sys.platform.startswith("linux"):
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
