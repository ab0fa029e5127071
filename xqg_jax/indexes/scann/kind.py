"""ScaNN as a kind of index: one shard or several, tuned to a recall.

scann/            ScaNN's assets; several shards have scann-00000/,
                  scann-00001/ and so on
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from xqg_jax.augmentation.views import AugmentedView
from xqg_jax.indexes.scann.index import (
  ASSETS_DIR,
  MIN_VECTORS,
  ScannIndex,
  ScannParts,
  check_assets,
  derive_parameters,
  load_shard,
)
from xqg_jax.indexes.scann.shards import build_shards
from xqg_jax.indexes.scann.tuning import make_tuning_queries
from xqg_jax.indexes.settings import IndexWishes
from xqg_jax.indexes.sharded import ShardedIndex
from xqg_jax.io.paths import Path


class ScannShards(ShardedIndex):
  """A finished ScaNN index of a corpus."""

  shown_name: ClassVar[str] = "ScaNN"
  min_passages: ClassVar[int] = MIN_VECTORS
  whole_name: ClassVar[str] = ASSETS_DIR
  whole_keys: ClassVar[tuple[str, ...]] = ("parameters", "assets")
  parts_schema: ClassVar[type] = ScannParts

  def _load_part(self, shard: Mapping[str, Any]) -> ScannIndex:
    return load_shard(self.path, shard, dim=self.dim)

  def verify(self) -> None:
    """Compares the ids and all assets with their checksums."""
    super().verify()
    for shard in self.shards:
      check_assets(self.path / shard["name"], shard["assets"])

  @staticmethod
  def check(wishes: IndexWishes, num_passages: int) -> None:
    """Refuses shards that are too small and leaves that are too many.

    Raises:
      InputError: the wishes do not suit the number of passages.
    """
    bounds = wishes.cut(num_passages, min_rows=MIN_VECTORS)
    fewest = int(min(np.diff(bounds)))
    derive_parameters(fewest, k=wishes.k, num_leaves=wishes.num_leaves)

  @staticmethod
  def build(
    folder: Path,
    view: AugmentedView,
    wishes: IndexWishes,
    queries: Float[np.ndarray, "queries dim"] | None,
  ) -> dict[str, Any]:
    """Builds, tunes and measures the shards; resumes what was interrupted."""
    if queries is None:
      queries = make_tuning_queries(
        view, num_queries=2 * wishes.num_tuning_queries, seed=wishes.seed
      )
    bounds = wishes.cut(view.num_passages, min_rows=MIN_VECTORS)
    return build_shards(folder, view, wishes, queries, bounds)
