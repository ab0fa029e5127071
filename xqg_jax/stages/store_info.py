"""Stage `store info`: what a store holds."""

import math
import os
from typing import Any

from xqg_jax.store.shards import DTYPES
from xqg_jax.store.store import open_store


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
    "num_shards": opened.num_shards,
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
