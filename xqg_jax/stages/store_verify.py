"""Stage `store verify`: every array of a store against its checksum."""

import os
import sys
from typing import Any

import numpy as np

from xqg_jax.augmentation.language_means import has_means, read_means
from xqg_jax.errors import InputError
from xqg_jax.io.progress import Progress
from xqg_jax.store.shards import read_checked
from xqg_jax.store.store import EmbeddingStore, open_store


def verify_store(*, store: str | os.PathLike) -> EmbeddingStore:
  """Reads all of a store: checksums, numbers of rows, and finite values.

  The means of questions are read, too, where the store has them.

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
  for record in Progress(records, desc="verify", unit=" shards"):
    for name in record["sha256"]:
      try:
        _check(opened, record, name)
      except InputError as error:
        found.append(error)
        print(f"damaged: {error}", file=sys.stderr)
  if has_means(opened.path):
    read_means(opened.path)
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
