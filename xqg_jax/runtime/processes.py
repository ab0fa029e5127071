"""Several processes in one computation, by `jax.distributed`.

A training run over several hosts is one process on each of them, all with the
same command. They have to be joined before JAX looks for its devices.
"""

import contextlib
import errno
import socket
import sys
from collections.abc import Sequence

import jax
import numpy as np

from xqg_jax.errors import InputError, NativeError

# Processes may be a long way apart in their work.
_WAIT_MILLISECONDS = 48 * 3_600_000

_MEND = (
  "give all of --coordinator_address=HOST:PORT, --num_processes=N and "
  "--process_id=0 ... N-1"
)


def join_processes(
  *,
  coordinator_address: str | None = None,
  num_processes: str | int | None = None,
  process_id: str | int | None = None,
) -> None:
  """Joins this process to the others of a run, and waits for them.

  Without arguments JAX finds the others by itself: on TPU pods, under SLURM,
  Open MPI and Kubernetes. It has to be called before anything that computes.

  Args:
    coordinator_address: host and port of process 0, on which it listens.
    num_processes: of the run.
    process_id: which of them this is, from 0.

  Raises:
    InputError: values that cannot be, or no others to be found.
    NativeError: JAX could not join them. If the others do not come within five
      minutes, JAX ends the process and says so itself.
  """
  values = coordinator_address, num_processes, process_id
  address, count, index = None, None, None  # JAX finds them
  if any(value is not None for value in values):
    address, count, index = _check(*values)
    print(
      f"process {index} of {count} meets the others at {address}",
      file=sys.stderr,
    )
  try:
    jax.distributed.initialize(
      coordinator_address=address, num_processes=count, process_id=index
    )
  except ValueError:
    raise InputError(
      "no TPU pod, SLURM, Open MPI or Kubernetes job is found here", mend=_MEND
    ) from None
  except (RuntimeError, TimeoutError) as error:
    what = str(error).splitlines()[0]
    raise NativeError(f"the processes could not be joined ({what})") from None


def is_first_process() -> bool:
  """Whether this process is the only one, or the first of several."""
  return not jax.distributed.is_initialized() or jax.process_index() == 0


def wait_for_all(purpose: str) -> None:
  """Waits for all processes of the run; a single process goes on at once.

  Args:
    purpose: names the place; no two waits of a run have the same.
  """
  if jax.distributed.is_initialized() and jax.process_count() > 1:
    from orbax.checkpoint import multihost

    barrier = multihost.get_barrier_sync_fn()
    barrier(key=f"xqg {purpose}", timeout_ms=_WAIT_MILLISECONDS)


def gather_arrays(arrays: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
  """What each process of the run has, in their order; shapes are alike.

  Args:
    arrays: of this process. All processes have to call this.
  """
  if not jax.distributed.is_initialized() or jax.process_count() == 1:
    return [list(arrays)]
  from jax.experimental import multihost_utils

  gathered = [multihost_utils.process_allgather(array) for array in arrays]
  return [list(parts) for parts in zip(*gathered, strict=True)]


def check_all_joined() -> None:
  """Refuses to use a host of a TPU pod as if it were alone.

  Raises:
    InputError: there are others, which have not been joined.
  """
  if not jax.distributed.is_initialized() and jax.process_count() > 1:
    raise InputError(
      f"this host is one of {jax.process_count()} that compute together",
      mend="add --distributed, and run the command on all of them",
    )


def _check(
  coordinator_address: str | None,
  num_processes: str | int | None,
  process_id: str | int | None,
) -> tuple[str, int, int]:
  """The three values, with numbers as numbers."""
  given = {
    "--coordinator_address": coordinator_address,
    "--num_processes": num_processes,
    "--process_id": process_id,
  }
  missing = [flag for flag, value in given.items() if value is None]
  if missing:
    raise InputError(f"missing: {', '.join(missing)}", mend=_MEND)
  address = str(coordinator_address)
  count = _read_number("num_processes", num_processes)
  index = _read_number("process_id", process_id)
  if not 0 <= index < count:
    raise InputError(
      f"--process_id={index} is not below --num_processes={count}",
      mend="number the processes from 0",
    )
  _check_address(address, is_own=index == 0)
  return address, count, index


def _read_number(name: str, value: str | int | None) -> int:
  """A number from 0.

  >>> _read_number("num_processes", "16")
  16
  """
  if not str(value).isdecimal():
    raise InputError(f"--{name}={value} is no number", mend=_MEND)
  return int(str(value))


def _check_address(address: str, *, is_own: bool) -> None:
  """Finds what JAX would wait minutes for, or die of.

  Args:
    address: host and port.
    is_own: whether this process will listen there.
  """
  where = f"--coordinator_address={address}"
  host, _, port = address.rpartition(":")
  if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
    raise InputError("no host and port", where=where, mend=_MEND)
  try:
    socket.getaddrinfo(host.strip("[]"), int(port))
  except OSError as error:
    raise InputError(
      f"no such host ({error.strerror})", where=where, mend="check the name"
    ) from None
  if is_own and _is_taken(int(port)):
    raise InputError(
      "something else listens on this port", where=where, mend="take another"
    )


def _is_taken(port: int) -> bool:
  with contextlib.closing(socket.socket(socket.AF_INET)) as probe:
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
      probe.bind(("", port))
    except OSError as error:
      return error.errno == errno.EADDRINUSE
  return False
