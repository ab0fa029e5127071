"""SeqIO data sources over the project's own files."""

import collections
import functools
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath

from xqg_jax.errors import InputError
from xqg_jax.files import read_lines
from xqg_jax.languages import get_language
from xqg_jax.preprocessors import from_passage_lists
from xqg_jax.records import Passage, read_passages, read_questions
from xqg_jax.training_pairs import TrainingPair, read_training_pairs

# Larger files are streamed anew for each language.
MAX_CACHED_BYTES = 64 * 2**20

# Of a collection's folder: training pairs, and pairs of the dev questions, or
# these and the passages relevant to them.
PAIRS_FILE = "train_pairs.jsonl"
VALIDATION_FILE = "dev_pairs.jsonl"
QUESTIONS_FILE = "questions_dev.jsonl"
QRELS_FILE = "qrels_dev.tsv"

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
      return super().num_input_examples(split)
    loader = self.tfds_dataset
    # Written last in each preparation, to local folders and to buckets; its
    # time, which is in whole seconds, does not tell two quick ones apart.
    info = folder / "dataset_info.json"
    edition = (info.read_text(), info.stat().mtime)
    counts = _count_languages(loader.name, loader.data_dir, edition, split)
    return counts.get(self._language, 0)

  def _find_prepared(self) -> epath.Path:
    """The folder of the prepared data."""
    loader = self.tfds_dataset
    try:
      builder = tfds.builder(loader.name, data_dir=loader.data_dir)
    except tfds.core.DatasetNotFoundError:
      builder = None
    # Where its code is imported, there is a builder without data, too.
    if builder is None or not builder.is_prepared():
      name = loader.name.partition(":")[0]
      folder = loader.data_dir or tfds.core.constants.DATA_DIR
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


# --------------------------------------------------------- a folder's contents


def find_splits(data_dir: str | os.PathLike) -> dict[str, pathlib.Path]:
  """What each split of a folder's tasks reads, as `read_pairs` takes it."""
  folder = pathlib.Path(data_dir)
  splits = {"train": folder / PAIRS_FILE}
  if (folder / VALIDATION_FILE).exists():
    splits["validation"] = folder / VALIDATION_FILE
  elif (folder / QUESTIONS_FILE).exists() and (folder / QRELS_FILE).exists():
    splits["validation"] = folder
  return splits


def keep_splits_in(
  language: str, split_to_path: Mapping[str, pathlib.Path]
) -> dict[str, pathlib.Path]:
  """The splits that have pairs in the language, and `train` in any case."""
  return {
    split: path
    for split, path in split_to_path.items()
    if split == "train" or count_pairs(path).get(language)
  }


def find_languages(
  path: pathlib.Path, languages: Sequence[str] | None = None
) -> list[str]:
  """The languages of a file's pairs, or those given, all known.

  Raises:
    InputError: an unknown language, pairs without one, or a malformed line.
  """
  counts = count_pairs(path)
  codes = sorted(counts) if languages is None else list(languages)
  if "" in codes:
    raise InputError(
      "some pairs have no language",
      where=path,
      mend="give each pair a 'lang', or name the languages to use",
    )
  return [get_language(code, where=path).code for code in codes]


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
