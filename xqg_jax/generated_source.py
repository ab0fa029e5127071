"""SeqIO data source of generated queries: an example is a passage with its own.

The examples are passages, not queries: an epoch draws one query of each, so
that a batch seldom holds two queries of one passage, of which each would make
the other's positive a negative. In memory so many draws as
`DualEncoderModel.num_draws` says are kept of each, and take turns.
"""

import functools
from collections.abc import Iterator
from typing import Any

import seqio
import tensorflow as tf

from xqg_jax.collection import Collection
from xqg_jax.data_sources import PAIR_SPEC, stream_rows, to_features
from xqg_jax.errors import InputError
from xqg_jax.generated_pairs import GeneratedPairs
from xqg_jax.training_pairs import TrainingPair

GENERATED_SPEC = {
  "queries": tf.TensorSpec([None], tf.string),
  **{k: v for k, v in PAIR_SPEC.items() if k not in ("query", "language")},
}


class GeneratedPairsSource(seqio.DataSource):
  """Passages with their generated queries, as the one split `train`.

  Examples have the features of `GENERATED_SPEC`: `queries` of all languages, of
  which a later step draws one. They come in the order of the passages. Shard i
  of n holds examples i, i + n, i + 2n, ...
  """

  def __init__(self, pairs: GeneratedPairs):
    """Names the files."""
    self._pairs = pairs
    super().__init__(splits=["train"])

  @property
  def supports_arbitrary_sharding(self) -> bool:
    """True: examples are dealt out one by one."""
    return True

  def num_input_examples(self, split: str) -> int:
    """Passages that have queries, found by reading the files once."""
    del split
    return self._count

  def list_shards(self, split: str) -> list[str]:
    """The file or folder of the queries."""
    del split
    return [str(self._pairs.generated_queries)]

  @functools.cached_property
  def _collection(self) -> Collection:
    return self._pairs.scan()

  @functools.cached_property
  def _count(self) -> int:
    return sum(1 for _ in self._pairs.read(self._collection))

  def get_dataset(
    self,
    split: str = "train",
    shuffle: bool = True,
    seed: int | None = None,
    shard_info: seqio.ShardInfo | None = None,
    **unused: Any,
  ) -> tf.data.Dataset:
    """The passages in order, whatever `shuffle` and `seed` say.

    Raises:
      InputError: no passage has a query in the languages.
    """
    del split, shuffle, seed, unused
    if not self._count:
      languages = ", ".join(self._pairs.languages or ("any language",))
      raise InputError(
        f"no queries in {languages}",
        where=self._pairs.generated_queries,
        mend="choose languages that it has",
      )
    return stream_rows(self._rows, GENERATED_SPEC, self._count, shard_info)

  def _rows(self) -> Iterator[dict[str, Any]]:
    for passage, queries in self._pairs.read(self._collection):
      features = to_features(
        TrainingPair(passage.passage_id, "", "", (passage,))
      )
      features["queries"] = [q for texts in queries.values() for q in texts]
      yield {name: features[name] for name in GENERATED_SPEC}
