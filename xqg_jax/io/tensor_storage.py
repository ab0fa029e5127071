"""TensorStore's key-value stores, opened in one context."""

import functools
from collections.abc import Mapping
from typing import Any


@functools.cache
def storage_context() -> Any:
  """TensorStore's context, one for all: it shares connections and limits."""
  # Not every verb needs TensorStore, which takes a tenth of a second to load.
  import tensorstore

  return tensorstore.Context({"file_io_concurrency": {"limit": 64}})


def open_storage(spec: Mapping[str, Any]) -> Any:
  """Opens a key-value store."""
  import tensorstore

  return tensorstore.KvStore.open(dict(spec), context=storage_context())
