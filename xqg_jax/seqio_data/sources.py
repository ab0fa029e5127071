"""SeqIO data sources over the project's own files."""

import collections
import functools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core.constants import DATA_DIR

from xqg_jax.data.collection import Collection
from xqg_jax.data.generated_pairs import GeneratedPairs
from xqg_jax.data.pair_folder import count_pairs, read_pairs
from xqg_jax.data.passages import Passage, read_passages
from xqg_jax.data.training_pairs import TrainingPair
from xqg_jax.errors import InputError
from xqg_jax.io.local_copies import copy_here
from xqg_jax.io.paths import Path, to_path
from xqg_jax.seqio_data.preprocessors import from_passage_lists

PAIR_SPEC = {
  "query_id": tf.TensorSpec([], tf.string),
  "query": tf.TensorSpec([], tf.string),
  "language": tf.TensorSpec([], tf.string),
  "answers": tf.TensorSpec([None], tf.string),
  "positive_ids": tf.TensorSpec([None], tf.string),
  "positive_titles": tf.TensorSpec([None], tf.string),
  "positive_texts": tf.TensorSpec([None], tf.string),
  "positive_scores": tf.TensorSpec([None], tf.float32),
  "negative_ids": tf.TensorSpec([None], tf.string),
  "negative_titles": tf.TensorSpec([None], tf.string),
  "negative_texts": tf.TensorSpec([None], tf.string),
  "negative_scores": tf.TensorSpec([None], tf.float32),
}
GENERATED_SPEC = {
  "queries": tf.TensorSpec([None], tf.string),
  **{k: v for k, v in PAIR_SPEC.items() if k not in ("query", "language")},
}


class TrainingPairsSource(seqio.DataSource):
  """Training pairs of Tevatron/DPR form, one file or folder a split.

  Examples have the features of `PAIR_SPEC`; `positive_ids`, `positive_titles`,
  `positive_texts` and `positive_scores` (and the negatives') belong together
  row by row; a score is NaN where the teacher gave none. They come in file
  order: SeqIO shuffles after preprocessing. Shard i of n holds rows
  i, i + n, i + 2n, ...
  """

  def __init__(
    self,
    split_to_path: Mapping[str, str | os.PathLike],
    *,
    language: str | None = None,
  ):
    """Names the files.

    Args:
      split_to_path: of each split, as `read_pairs` takes it.
      language: keeps the pairs of one language; None keeps all.
    """
    self._paths = {k: to_path(v) for k, v in split_to_path.items()}
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
    rows = functools.partial(self._rows, split)
    return stream_rows(rows, PAIR_SPEC, count, shard_info)

  def _rows(self, split: str) -> Iterator[dict[str, Any]]:
    for pair in read_pairs(self._paths[split]):
      if self._language in (None, pair.language):
        yield to_features(pair)


def stream_rows(
  rows: Callable[[], Iterator[dict[str, Any]]],
  spec: Mapping[str, tf.TensorSpec],
  count: int,
  shard_info: seqio.ShardInfo | None,
) -> tf.data.Dataset:
  """The rows, or of n shards number i: rows i, i + n, i + 2n, ...

  Args:
    rows: makes them, anew for each iteration.
    spec: their features.
    count: how many there are, so that later steps know whether they fit in
      memory.
    shard_info: the part to read; None: all.
  """
  dataset = tf.data.Dataset.from_generator(rows, output_signature=spec).apply(
    tf.data.experimental.assert_cardinality(count)
  )
  if shard_info:
    dataset = dataset.shard(shard_info.num_shards, shard_info.index)
  return dataset


def to_features(pair: TrainingPair) -> dict[str, Any]:
  """The features of `PAIR_SPEC`."""
  return {
    "query_id": pair.query_id,
    "query": pair.query,
    "language": pair.language,
    "answers": list(pair.answers),
    **_list_passages("positive", pair.positives, pair.positive_scores),
    **_list_passages("negative", pair.negatives, pair.negative_scores),
  }


def _list_passages(
  kind: str, passages: Sequence[Passage], scores: Sequence[float]
) -> dict[str, list[Any]]:
  return {
    f"{kind}_ids": [p.passage_id for p in passages],
    f"{kind}_titles": [p.title for p in passages],
    f"{kind}_texts": [p.text for p in passages],
    f"{kind}_scores": list(scores) or [math.nan] * len(passages),
  }


class TfdsPairsSource(seqio.TfdsDataSource):
  """Training pairs that a TFDS builder has prepared; nothing is read before.

  Features of the builder: `query_id`, `query`, `language`, `answers`, and the
  lists `positive_passages` and `negative_passages` of `passage_id`, `title`,
  `text`.
  Examples have the features of `PAIR_SPEC`, as those of `TrainingPairsSource`.
  """

  def __init__(
    self,
    tfds_name: str,
    *,
    language: str | None = None,
    tfds_data_dir: str | None = None,
  ):
    """Names the builder.

    Args:
      tfds_name: such as `xor_tydi/pairs:1.0.0`.
      language: keeps the pairs of one language; None keeps all.
      tfds_data_dir: where TFDS keeps its data; None: where it usually does.
    """
    self._language = language
    super().__init__(tfds_name, tfds_data_dir=tfds_data_dir)

  @property
  def splits(self) -> Any:
    """Those of the builder.

    Raises:
      InputError: the data set is not prepared.
    """
    self._find_prepared()
    return super().splits

  def num_input_examples(self, split: str) -> int:
    """Number of pairs, in the language if one is given.

    Raises:
      InputError: the data set is not prepared.
    """
    folder = self._find_prepared()
    if self._language is None:
      return super().num_input_examples(split) or 0
    loader = self.tfds_dataset
    # Written last in each preparation, to local folders and to buckets; its
    # time, which is in whole seconds, does not tell two quick ones apart.
    info = folder / "dataset_info.json"
    edition = (info.read_text(), info.stat().mtime)
    counts = _count_languages(loader.name, loader.data_dir, edition, split)
    return counts.get(self._language, 0)

  def _find_prepared(self) -> Any:
    """The folder of the prepared data."""
    loader = self.tfds_dataset
    dataset = str(loader.name)
    try:
      builder = tfds.builder(dataset, data_dir=loader.data_dir)
    except tfds.core.DatasetNotFoundError:
      builder = None
    # Where its code is imported, there is a builder without data, too.
    if builder is None or not builder.is_prepared():
      name = dataset.partition(":")[0]
      folder = loader.data_dir or DATA_DIR
      raise InputError(
        f"{name} is not prepared in {folder}",
        mend=f"run `xqg prepare --gin.DATASET={name} "
        f"--gin.OUTPUT_DIR={folder}`",
      )
    return builder.data_path

  def get_dataset(
    self,
    split: str = "train",
    shuffle: bool = True,
    seed: int | None = None,
    shard_info: seqio.ShardInfo | None = None,
    **unused: Any,
  ) -> tf.data.Dataset:
    """The pairs in the order of the files; SeqIO shuffles them later.

    Raises:
      InputError: the data set is not prepared.
    """
    del shuffle, unused
    self._find_prepared()
    dataset = super().get_dataset(split, False, seed, shard_info)
    dataset = from_passage_lists(dataset, self._language)
    if shard_info is None or shard_info.num_shards == 1:
      # Lets later steps know that the pairs fit in memory.
      count = self.num_input_examples(split)
      dataset = dataset.apply(tf.data.experimental.assert_cardinality(count))
    return dataset


@functools.lru_cache(maxsize=64)
def _count_languages(
  tfds_name: str,
  tfds_data_dir: str | None,
  edition: tuple[str, float],
  split: str,
) -> Mapping[str, int]:
  del edition  # part of the key: data prepared anew are counted again
  source = seqio.TfdsDataSource(tfds_name, tfds_data_dir=tfds_data_dir)
  dataset = source.get_dataset(split, shuffle=False)
  languages = dataset.map(lambda example: example["language"])
  return collections.Counter(
    code.decode() for code in languages.as_numpy_iterator()
  )


class PassagesSource(seqio.DataSource):
  """The passages of a TSV or JSONL file, as the one split `test`.

  Examples have `passage_id`, `title` and `text`. Shard i of n holds passages
  i, i + n, i + 2n, ...
  """

  def __init__(self, path: str | os.PathLike):
    """Names the file, as `read_passages` takes it."""
    self._path = copy_here(path)
    super().__init__(splits=["test"])

  @property
  def supports_arbitrary_sharding(self) -> bool:
    """True: rows are dealt out one by one."""
    return True

  def num_input_examples(self, split: str) -> int:
    """Number of passages, found by reading the file once."""
    del split
    is_there = self._path.exists()
    modified = self._path.stat().st_mtime_ns if is_there else 0
    return _count_passages(self._path, modified)

  def list_shards(self, split: str) -> list[str]:
    """The one file."""
    del split
    return [str(self._path)]

  def get_dataset(
    self,
    split: str = "test",
    shuffle: bool = False,
    seed: int | None = None,
    shard_info: seqio.ShardInfo | None = None,
    **unused: Any,
  ) -> tf.data.Dataset:
    """The passages in file order, whatever `shuffle` and `seed` say."""
    del split, shuffle, seed, unused
    keys = ("passage_id", "title", "text")
    dataset = tf.data.Dataset.from_generator(
      lambda: (
        {key: getattr(passage, key) for key in keys}
        for passage in read_passages(self._path)
      ),
      output_signature={key: tf.TensorSpec([], tf.string) for key in keys},
    )
    if shard_info:
      dataset = dataset.shard(shard_info.num_shards, shard_info.index)
    return dataset


@functools.lru_cache(maxsize=16)
def _count_passages(path: Path, modified: int) -> int:
  del modified  # part of the key
  return sum(1 for _ in read_passages(path))


# --------------------------------------------------------- a folder's contents


# -------------------------------------------------------------- reading pairs


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
