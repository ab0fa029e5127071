"""SeqIO data sources over the project's own files."""

import collections
import functools
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import seqio
import tensorflow as tf

from xqg_jax.errors import InputError
from xqg_jax.records import TrainingPair, read_training_pairs

# Larger files are streamed anew for each language.
MAX_CACHED_BYTES = 64 * 2**20

PAIR_SPEC = {
  "query_id": tf.TensorSpec([], tf.string),
  "query": tf.TensorSpec([], tf.string),
  "language": tf.TensorSpec([], tf.string),
  "positive_titles": tf.TensorSpec([None], tf.string),
  "positive_texts": tf.TensorSpec([None], tf.string),
  "negative_titles": tf.TensorSpec([None], tf.string),
  "negative_texts": tf.TensorSpec([None], tf.string),
}


class TrainingPairsSource(seqio.DataSource):
  """Training pairs of Tevatron/DPR form, one file a split.

  Examples have the features of `PAIR_SPEC`; `positive_titles` and
  `positive_texts` (and the negatives') belong together row by row. They come
  in file order: SeqIO shuffles after preprocessing. Shard i of n holds rows
  i, i + n, i + 2n, ...
  """

  def __init__(
    self,
    split_to_path: Mapping[str, str | pathlib.Path],
    *,
    language: str | None = None,
  ):
    """Names the files.

    Args:
      split_to_path: file of each split, as `read_training_pairs` takes it.
      language: keeps the pairs of one language; None keeps all.
    """
    self._paths = {k: pathlib.Path(v) for k, v in split_to_path.items()}
    self._language = language
    super().__init__(splits=list(self._paths))

  @property
  def supports_arbitrary_sharding(self) -> bool:
    """True: rows are dealt out one by one."""
    return True

  def num_input_examples(self, split: str) -> int:
    """Number of pairs, found by reading the file once."""
    counts = count_pairs(self._paths[split])
    if self._language is None:
      return sum(counts.values())
    return counts.get(self._language, 0)

  def list_shards(self, split: str) -> list[str]:
    """The one file."""
    return [str(self._paths[split])]

  def get_dataset(
    self,
    split: str = "train",
    shuffle: bool = True,
    seed: int | None = None,
    shard_info: seqio.ShardInfo | None = None,
    **unused: Any,
  ) -> tf.data.Dataset:
    """The pairs in file order, whatever `shuffle` and `seed` say."""
    del shuffle, seed, unused
    count = self.num_input_examples(split)
    if not count:
      raise InputError(
        f"no pairs in the language {self._language!r}",
        where=self._paths[split],
        mend="leave the language out, or give its pairs a 'lang'",
      )
    dataset = tf.data.Dataset.from_generator(
      functools.partial(self._rows, split), output_signature=PAIR_SPEC
    ).apply(tf.data.experimental.assert_cardinality(count))
    if shard_info:
      dataset = dataset.shard(shard_info.num_shards, shard_info.index)
    return dataset

  def _rows(self, split: str) -> Iterator[dict[str, Any]]:
    for pair in read_pairs(self._paths[split]):
      if self._language in (None, pair.language):
        yield _to_features(pair)


def _to_features(pair: TrainingPair) -> dict[str, Any]:
  return {
    "query_id": pair.query_id,
    "query": pair.query,
    "language": pair.language,
    "positive_titles": [p.title for p in pair.positives],
    "positive_texts": [p.text for p in pair.positives],
    "negative_titles": [p.title for p in pair.negatives],
    "negative_texts": [p.text for p in pair.negatives],
  }


def read_pairs(path: str | pathlib.Path) -> Iterable[TrainingPair]:
  """The pairs of a file; a small file is read once for all its languages.

  Raises:
    InputError: as `read_training_pairs`.
  """
  path = pathlib.Path(path)
  if not path.exists() or path.stat().st_size > MAX_CACHED_BYTES:
    return read_training_pairs(path)
  return _read_once(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=2)
def _read_once(path: pathlib.Path, modified: int) -> tuple[TrainingPair, ...]:
  del modified  # part of the key: a file that changed is read again
  return tuple(read_training_pairs(path))


def count_pairs(path: str | pathlib.Path) -> Mapping[str, int]:
  """Counts the pairs of each language in a file (`""`: language not given).

  Raises:
    InputError: as `read_training_pairs`.
  """
  path = pathlib.Path(path)
  return _count_once(path, path.stat().st_mtime_ns if path.exists() else 0)


@functools.lru_cache(maxsize=64)
def _count_once(path: pathlib.Path, modified: int) -> Mapping[str, int]:
  del modified  # part of the key
  return collections.Counter(pair.language for pair in read_pairs(path))
