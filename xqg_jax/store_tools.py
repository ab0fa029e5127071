"""`xqg store verify` and `info`: is a store sound, and what is in it."""

import math
import os
import sys
from typing import Any

import numpy as np
import tqdm

from xqg_jax.errors import InputError
from xqg_jax.shards import DTYPES, read_checked
from xqg_jax.store import EmbeddingStore, open_store


def verify_store(*, store: str | os.PathLike) -> EmbeddingStore:
  """Reads all of a store: checksums, numbers of rows, and finite values.

  Args:
    store: its folder, on disk or in a bucket.

  Returns:
    The store.

  Raises:
    InputError: anything damaged. Every damaged part is named on standard
      error, the first of them in the exception.
  """
  opened = open_store(store)
  found: list[InputError] = []
  records = opened.manifest["shards"]
  for record in tqdm.tqdm(records, desc="verify", unit=" shards"):
    for name in record["sha256"]:
      try:
        _check(opened, record, name)
      except InputError as error:
        found.append(error)
        print(f"damaged: {error}", file=sys.stderr)
  if found:
    raise InputError(
      f"{len(found)} damaged parts, the first of them: {found[0]}", where=store
    )
  print(f"{opened.path}: {opened.num_passages:,} passages, all sound")
  return opened


def _check(store: EmbeddingStore, record: dict[str, Any], name: str) -> None:
  values = read_checked(store.path, record, name)
  if name in ("passages", "query_sums") and not np.isfinite(values).all():
    raise InputError(
      "a value is not finite",
      where=store.path / record["name"] / name,
      mend="encode or import it again",
    )


def describe_store(*, store: str | os.PathLike) -> dict[str, Any]:
  """Prints and returns what a store's manifest says; reads nothing else.

  Args:
    store: its folder, on disk or in a bucket.

  Returns:
    Counts, dimensions, dtype, groups of query sums, bytes of all vectors,
    encoder and inputs.

  Raises:
    InputError: no finished store.
  """
  opened = open_store(store)
  manifest = opened.manifest
  vectors = opened.num_passages * (1 + len(opened.groups))
  described = {
    "path": str(opened.path),
    "fingerprint": opened.fingerprint,
    "num_passages": opened.num_passages,
    "dim": opened.dim,
    "dtype": manifest["dtype"],
    "num_shards": len(manifest["shards"]),
    "vector_bytes": vectors * opened.dim * DTYPES[manifest["dtype"]].itemsize,
    "groups": opened.groups,
    "encoder": manifest["encoder"],
    "inputs": manifest["inputs"],
  }
  for name, value in described.items():
    print(f"{name:<13} {_shorten(name, value)}")
  return described


def _shorten(name: str, value: Any) -> str:
  if name == "vector_bytes":
    return _format_bytes(value)
  if name == "groups":
    return "; ".join(map(_name_group, value)) or "no query sums"
  return str(value)


def _name_group(group: dict[str, Any]) -> str:
  """A group of query sums in words.

  >>> _name_group({"language": "fi", "rank": 2})
  'fi, query 2'
  """
  words = [group["language"] or "all languages"]
  words += [] if group["rank"] is None else [f"query {group['rank']}"]
  return ", ".join(words)


def _format_bytes(count: int) -> str:
  """A number of bytes in decimal units.

  >>> _format_bytes(55_910_400_000)
  '55.9 GB'
  """
  units = ("bytes", "kB", "MB", "GB", "TB")
  power = min(int(math.log(max(count, 1), 1000)), len(units) - 1)
  return f"{count / 1000**power:.{1 if power else 0}f} {units[power]}"
