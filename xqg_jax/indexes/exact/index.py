"""Exact index: full search of the embeddings where they lie."""

import functools
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from xqg_jax.augmentation.views import AugmentedView
from xqg_jax.indexes.exact.search import (
  BLOCK_SIZE,
  EXACT,
  ExactSettings,
  search_exact,
)
from xqg_jax.indexes.index import BuiltIndex
from xqg_jax.indexes.neighbors import Neighbors
from xqg_jax.indexes.settings import IndexWishes
from xqg_jax.io.paths import Path
from xqg_jax.store.vector_checks import check_queries


class ExactIndex(BuiltIndex):
  """An index that notes what was indexed and keeps nothing of its own."""

  is_exact: ClassVar[bool] = True
  shown_name: ClassVar[str] = "exact search"

  @staticmethod
  def check(wishes: IndexWishes, num_passages: int) -> None:
    """Takes all wishes: those of other kinds do not concern it."""

  @staticmethod
  def build(
    folder: Path,
    view: AugmentedView,
    wishes: IndexWishes,
    queries: Float[np.ndarray, "queries dim"] | None,
  ) -> dict[str, Any]:
    """Writes nothing, for the embeddings are searched where they lie."""
    del folder, view, wishes, queries
    return {}

  @functools.cached_property
  def _view(self) -> AugmentedView:
    return self.open_embeddings()

  def search(
    self,
    queries: Float[np.ndarray, "queries query_dim"],
    k: int,
    *,
    settings: ExactSettings = EXACT,
    across_processes: bool = False,
  ) -> Neighbors:
    """As `Index.search`."""
    check_queries(queries, dim=self.dim, k=k)
    return search_exact(
      queries,
      self._view.blocks(BLOCK_SIZE),
      min(k, self.num_passages),
      settings=settings,
      across_processes=across_processes,
    )
