"""Settings of an index that is to be built, for all kinds."""

import dataclasses
from typing import Any

from xqg_jax.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class IndexWishes:
  """What the user asked for; decides the bytes written.

  The attributes are the arguments of `indexing.build_index`.
  """

  kind: str
  num_leaves: int | None
  num_leaves_to_search: int | None
  num_reordered: int | None
  target_index_recall: float
  k: int
  num_tuning_queries: int
  seed: int
  num_shards: int | None
  rows_per_shard: int | None

  def to_json(self) -> dict[str, Any]:
    """For the claim; shards only where they are asked for."""
    wishes = dataclasses.asdict(self)
    for name in ("num_shards", "rows_per_shard"):
      if wishes[name] is None:
        del wishes[name]
    return wishes

  def cut(self, num_passages: int, *, min_rows: int) -> list[int]:
    """The first rows of the shards, which are of about equal size, and the end.

    Raises:
      InputError: both ways to say how many are used, or shards too small.
    """
    if self.num_shards and self.rows_per_shard:
      raise InputError(
        "both num_shards and rows_per_shard are given", mend="give one of them"
      )
    count = self.num_shards or 1
    if self.rows_per_shard:
      count = -(-num_passages // self.rows_per_shard)
    if count > 1 and num_passages // count < min_rows:
      raise InputError(
        f"{num_passages} passages in {count} shards leave fewer than "
        f"{min_rows} for each",
        mend="use fewer shards",
      )
    return [num_passages * number // count for number in range(count + 1)]

  def __post_init__(self):
    if not 0 < self.target_index_recall <= 1:
      raise InputError(
        f"target_index_recall is {self.target_index_recall}",
        mend="use a share above 0 and at most 1, such as 0.99",
      )
    for name in (
      "num_leaves",
      "num_leaves_to_search",
      "num_reordered",
      "k",
      "num_tuning_queries",
      "num_shards",
      "rows_per_shard",
    ):
      value = getattr(self, name)
      if value is not None and value < 1:
        raise InputError(f"{name} is {value}", mend="use at least 1")
