"""Locks in buckets: leases that their holder renews."""

import contextlib
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from typing import TypedDict

from xqg_jax.errors import InputError
from xqg_jax.io.buckets import BucketPath
from xqg_jax.io.typed_json import decode_json

# The holder writes its lease anew so often, in seconds; one that has stayed
# the same for so long has lost its holder.
RENEWED_AFTER, DEAD_AFTER = 15.0, 60.0


@contextlib.contextmanager
def hold_lease(place: BucketPath) -> Iterator[None]:
  """Keeps others from taking a lease while the block runs.

  It is given up when the block ends or raises. The lease of a process that
  was killed is taken over once it has not been renewed for a minute, as seen
  from here: no clocks are compared. Each change is a write that succeeds only
  if nobody else has written in between, so of several processes one wins.

  A holder that hung for over a minute may find its lease taken. It goes on:
  the same run with the same arguments writes the same bytes.

  Raises:
    InputError: another process holds it, and renews it.
  """
  lease = _Lease(place)
  lease.take()
  ended = threading.Event()
  thread = threading.Thread(target=lease.renew_until, args=[ended], daemon=True)
  thread.start()
  try:
    yield
  finally:
    ended.set()
    thread.join()
    lease.give_up()


def folder_is_locked(folder: object) -> InputError:
  """The error of a folder that another process holds."""
  return InputError(
    "another process is writing this folder",
    where=folder,
    mend="wait for it or choose another OUTPUT_DIR",
  )


class _LeaseRecord(TypedDict):
  """Contents of a lease: its holder, which renews it."""

  holder: str


class _Lease:
  """A file that its holder alone writes."""

  def __init__(self, place: BucketPath):
    self._place = place
    self._name = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex}"
    self._number = 0

  def take(self) -> None:
    """Writes the lease where there is none, or one that nobody renews."""
    if self._write(None):
      return
    found, deadline = self._place.generation(), time.monotonic() + DEAD_AFTER
    print(
      f"{self._place}: waiting {DEAD_AFTER:.0f} s whether its process lives",
      file=sys.stderr,
    )
    while time.monotonic() < deadline:
      time.sleep(min(1.0, DEAD_AFTER / 10))
      if self._place.generation() != found:
        break
    if not self._write(self._place.generation() and found):
      raise folder_is_locked(self._place.parent)

  def renew_until(self, ended: threading.Event) -> None:
    """Writes the lease anew, again and again, while it is ours."""
    while not ended.wait(RENEWED_AFTER):
      # A bucket that does not answer now may do so next time.
      with contextlib.suppress(InputError):
        known = self._own_generation()
        if known is None or not self._write(known):
          return

  def give_up(self) -> None:
    """Deletes the lease if it is ours."""
    with contextlib.suppress(InputError):
      if (known := self._own_generation()) is not None:
        self._place.write_if(None, known)

  def _write(self, known: bytes | None) -> bool:
    self._number += 1
    text = json.dumps({"holder": self._name, "renewed": self._number})
    return self._place.write_if(text.encode(), known)

  def _own_generation(self) -> bytes | None:
    """The generation of the lease, unless another has taken it."""
    known = self._place.generation()
    try:
      content = self._place.read_bytes()
    except FileNotFoundError:
      return None
    found = decode_json(content, _LeaseRecord, where=self._place)
    return known if found["holder"] == self._name else None
