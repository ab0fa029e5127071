"""Kills `xqg encode` at random moments and compares what it ends with.

  python benchmarks/encoding_kills.py --kills 20

makes a small `xor_mini` collection with generated queries and a one-layer
encoder, encodes it without a break, and again with SIGKILL after random times,
by turns while it starts and while it writes its shards. The last call is left
to finish. The bytes of both stores must be the same, or the script fails. JSON
is printed: what was there at each kill.
"""

import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import time
from typing import Any

from encoding_scale import list_stages, to_flags, write_inputs

from xqg_jax.io.files import sha256_file

SHARD_SIZE = 256


def start(folder: pathlib.Path, store: pathlib.Path) -> subprocess.Popen:
  """Starts `xqg encode` into a store."""
  settings = list_stages(folder)["encode"]
  settings |= {"OUTPUT_DIR": store, "SHARD_SIZE": SHARD_SIZE}
  command = [sys.executable, "-m", "xqg_jax.cli.main", "encode"]
  return subprocess.Popen(
    [*command, *to_flags(settings)],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )


def kill_at_random(
  folder: pathlib.Path, store: pathlib.Path, draw: random.Random, index: int
) -> dict[str, Any]:
  """Runs once and kills; returns when, and what was there."""
  before = len(list(store.glob("shard-*")))
  process, begun = start(folder, store), time.perf_counter()
  if index % 2:  # wait for its work, to hit the writing of shards
    while len(list(store.glob("shard-*"))) == before and process.poll() is None:
      time.sleep(0.001)
    time.sleep(draw.uniform(0, 0.5))
  else:
    time.sleep(draw.uniform(0, 6))
  process.kill()
  is_killed = process.wait() != 0
  return {
    "is_killed": is_killed,
    "seconds": round(time.perf_counter() - begun, 2),
    "shards": len(list(store.glob("shard-*"))),
    "half_written": len(list(store.glob(".shard-*"))),
  }


def list_files(folder: pathlib.Path) -> dict[str, str]:
  """Checksums of a store's files; not its lock, nor the log of its settings."""
  return {
    str(path.relative_to(folder)): sha256_file(path)
    for path in sorted(folder.rglob("*"))
    if path.is_file() and path.suffix not in (".gin", ".lock")
  }


def run_all(
  folder: pathlib.Path, arguments: argparse.Namespace
) -> dict[str, Any]:
  """Encodes whole, then killed, and compares."""
  write_inputs(folder, arguments.passages)
  if start(folder, folder / "whole").wait():
    raise SystemExit("the unbroken run failed")
  draw = random.Random(arguments.seed)
  kills = [
    kill_at_random(folder, folder / "killed", draw, index)
    for index in range(arguments.kills)
  ]
  status = start(folder, folder / "killed").wait()
  whole, killed = (list_files(folder / name) for name in ("whole", "killed"))
  differing = [n for n in whole | killed if whole.get(n) != killed.get(n)]
  return {
    "kills": kills,
    "last_status": status,
    "files": len(whole),
    "differing": differing,
  }


def main() -> None:
  """Runs it, prints what was seen, and fails if anything differs."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--kills", type=int, default=20)
  parser.add_argument("--passages", type=int, default=20_000)
  parser.add_argument("--seed", type=int, default=0)
  arguments = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    found = run_all(pathlib.Path(folder), arguments)
  print(json.dumps(found, indent=2))
  sys.exit(bool(found["differing"] or found["last_status"]))


if __name__ == "__main__":
  main()
