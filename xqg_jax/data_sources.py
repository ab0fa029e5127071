"""SeqIO data sources over the project's own files."""

import collections
import functools
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import seqio
import tensorflow as tf

from xqg_jax.errors import InputError
from xqg_jax.files import read_lines
from xqg_jax.preprocessors import from_passage_lists
from xqg_jax.records import (
  Passage,
  TrainingPair,
  read_passages,
  read_questions,
  read_training_pairs,
)

# Larger files are streamed anew for each language.
MAX_CACHED_BYTES = 64 * 2**20

# Of a collection's folder: dev questions, and the passages relevant to them.
QUESTIONS_FILE = "questions_dev.jsonl"
QRELS_FILE = "qrels_dev.tsv"

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
  """Training pairs of Tevatron/DPR form, one file or folder a split.

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
      split_to_path: of each split, as `read_pairs` takes it.
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


class TfdsPairsSource(seqio.TfdsDataSource):
  """Training pairs that a TFDS builder has prepared; nothing is read before.

  Features of the builder: `query_id`, `query`, `language`, and the lists
  `positive_passages` and `negative_passages` of `passage_id`, `title`, `text`.
  Examples have the features of `PAIR_SPEC`, as those of `TrainingPairsSource`.
  """

  def __init__(
    self,
    tfds_name: str,
    *,
    language: str | None = None,
    tfds_data_dir: str | None = None,
    splits: Mapping[str, str] | None = None,
  ):
    """Names the builder.

    Args:
      tfds_name: such as `xor_tydi/pairs:1.0.0`.
      language: keeps the pairs of one language; None keeps all.
      tfds_data_dir: where TFDS keeps its data; None: where it usually does.
      splits: TFDS's split by SeqIO's, as `{"validation": "dev"}`; None: all
        under their own names.
    """
    self._language = language
    self._name = (tfds_name, tfds_data_dir)
    super().__init__(tfds_name, tfds_data_dir=tfds_data_dir, splits=splits)

  @property
  def tfds_dataset(self) -> Any:
    """SeqIO's loader of the builder."""
    return super().tfds_dataset

  def num_input_examples(self, split: str) -> int:
    """Number of pairs, in the language if one is given."""
    if self._language is None:
      return super().num_input_examples(split)
    counts = _count_languages(*self._name, self._tfds_split(split))
    return counts.get(self._language, 0)

  def _tfds_split(self, split: str) -> str:
    is_renamed = isinstance(self.splits, Mapping) and split in self.splits
    found = self.splits[split] if is_renamed else split
    return found if isinstance(found, str) else split

  def get_dataset(
    self,
    split: str = "train",
    shuffle: bool = True,
    seed: int | None = None,
    shard_info: seqio.ShardInfo | None = None,
    **unused: Any,
  ) -> tf.data.Dataset:
    """The pairs in the order of the files; SeqIO shuffles them later."""
    del shuffle, unused
    dataset = super().get_dataset(split, False, seed, shard_info)
    dataset = from_passage_lists(dataset, self._language)
    if shard_info is None or shard_info.num_shards == 1:
      # Lets later steps know that the pairs fit in memory.
      count = self.num_input_examples(split)
      dataset = dataset.apply(tf.data.experimental.assert_cardinality(count))
    return dataset


@functools.lru_cache(maxsize=64)
def _count_languages(
  tfds_name: str, tfds_data_dir: str | None, split: str
) -> Mapping[str, int]:
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

  def __init__(self, path: str | pathlib.Path):
    """Names the file, as `read_passages` takes it."""
    self._path = pathlib.Path(path)
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
def _count_passages(path: pathlib.Path, modified: int) -> int:
  del modified  # part of the key
  return sum(1 for _ in read_passages(path))


# -------------------------------------------------------------- reading pairs


def read_pairs(path: str | pathlib.Path) -> Iterable[TrainingPair]:
  """The pairs of a file, or of the dev questions of a collection's folder.

  A folder needs `questions_dev.jsonl`, `qrels_dev.tsv` and `passages.tsv`: a
  question's positives are its relevant passages. A small file is read once
  for all its languages.

  Raises:
    InputError: as `read_training_pairs`.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    return _read_once(path, (path / QRELS_FILE).stat().st_mtime_ns)
  if not path.exists() or path.stat().st_size > MAX_CACHED_BYTES:
    return read_training_pairs(path)
  return _read_once(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _read_once(path: pathlib.Path, modified: int) -> tuple[TrainingPair, ...]:
  del modified  # part of the key: a file that changed is read again
  read = _read_judged_pairs if path.is_dir() else read_training_pairs
  return tuple(read(path))


def _read_judged_pairs(folder: pathlib.Path) -> Iterator[TrainingPair]:
  relevant: dict[str, list[str]] = collections.defaultdict(list)
  for where, line in read_lines(folder / QRELS_FILE):
    columns = line.split()
    if len(columns) != 4:
      raise InputError(
        f"found {line!r}, expected four columns",
        where=where,
        mend="write question id, 0, passage id, relevance",
      )
    if columns[3] != "0":
      relevant[columns[0]].append(columns[2])
  wanted = {passage_id for ids in relevant.values() for passage_id in ids}
  passages: dict[str, Passage] = {
    passage.passage_id: passage
    for passage in read_passages(folder / "passages.tsv")
    if passage.passage_id in wanted
  }
  for question in read_questions(folder / QUESTIONS_FILE):
    ids = relevant.get(question.question_id, ())
    positives = tuple(passages[i] for i in ids if i in passages)
    if positives:
      yield TrainingPair(
        query_id=question.question_id,
        query=question.question,
        language=question.language,
        positives=positives,
        answers=question.answers,
      )


def count_pairs(path: str | pathlib.Path) -> Mapping[str, int]:
  """Counts the pairs of each language (`""`: language not given).

  Raises:
    InputError: as `read_training_pairs`.
  """
  path = pathlib.Path(path)
  return _count_once(path, path.stat().st_mtime_ns if path.exists() else 0)


@functools.lru_cache(maxsize=64)
def _count_once(path: pathlib.Path, modified: int) -> Mapping[str, int]:
  del modified  # part of the key
  return collections.Counter(pair.language for pair in read_pairs(path))
