"""Streaming TFDS builder: records in file order, resumed by shards.

TFDS's own writer keeps a data set in temporary files that a kill throws away,
and shuffles it. Here each shard is a folder of its own that is renamed when it
is whole, so that a second call goes on after the last one. Memory holds one
row at a time.
"""

import collections
import dataclasses
import itertools
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds
import tqdm

from xqg_jax.datasets.reading.source_files import (
  SourceFile,
  find_source,
  verify_source,
)
from xqg_jax.io.claims import lock_folder
from xqg_jax.io.files import atomic_path, read_json, write_json

Example = dict[str, Any]


def serialize_example(example: Example) -> bytes:
  """Serializes an example; the bytes depend on nothing but its values.

  A list of objects becomes one list a field, named `list/field`.
  """
  columns: dict[str, tf.train.Feature] = {}
  for name, value in example.items():
    if isinstance(value, bool):
      columns[name] = tf.train.Feature(
        int64_list=tf.train.Int64List(value=[int(value)])
      )
    elif isinstance(value, str):
      columns[name] = _to_feature([value])
    elif value and isinstance(value[0], dict):
      for key in value[0]:
        columns[f"{name}/{key}"] = _to_feature([item[key] for item in value])
    else:
      columns[name] = _to_feature(value)
  features = tf.train.Features(feature=columns)
  # By default protobuf leaves the order of a map open.
  return tf.train.Example(features=features).SerializeToString(
    deterministic=True
  )


def _to_feature(texts: list[str]) -> tf.train.Feature:
  values = [text.encode() for text in texts]
  return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))


def parse_texts(record: bytes) -> dict[str, list[str]]:
  """The texts of a serialized example, by column; empty lists may be absent."""
  columns = tf.train.Example.FromString(record).features.feature
  return {
    name: [value.decode() for value in column.bytes_list.value]
    for name, column in columns.items()
  }


SOURCES_FILE = "source_files.json"

_SHARD_FILE = "shard.tfrecord"
_COUNTS_FILE = "shard.json"
_WORK_FOLDER = ".unfinished"

_Counts = dict[str, int]  # "rows" and "bytes" of a shard


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitSource:
  """Where a split comes from.

  Attributes:
    file: the official file.
    read: streams the examples of the local file.
    num_rows: about how many there are, for the progress bar; None: not known.
  """

  file: SourceFile
  read: Callable[[pathlib.Path], Iterator[Example]]
  num_rows: int | None = None


@dataclasses.dataclass(eq=False)
class StreamedConfig(tfds.core.BuilderConfig):
  """A configuration of a streamed data set.

  Attributes:
    make_features: makes the features of an example.
    splits: where each split comes from.
    rows_per_shard: rows of every shard but the last.
    is_ordered: the order of the rows matters, so readers may not shuffle.
  """

  make_features: Callable[[], tfds.features.FeaturesDict] | None = None
  splits: Mapping[str, SplitSource] = dataclasses.field(default_factory=dict)
  rows_per_shard: int = 20_000
  is_ordered: bool = False


class StreamedBuilder(
  tfds.core.dataset_builder.FileReaderBuilder, skip_registration=True
):
  """A data set that is read from a few official files, row by row.

  Subclasses give `BUILDER_CONFIGS`, `DESCRIPTION`, `CITATION`, `LICENSE` and
  `HOMEPAGE`. Data go to a local disk.

  Attributes:
    manual_dir: folder of official files, used instead of any download. None:
      TFDS's own manual folder, if there is something in it.
    verify_checksums: False accepts other editions of the files.
  """

  VERSION = tfds.core.Version("1.0.0")
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    "Optional: put the official files, plain or gzipped, into the manual "
    "folder; nothing is then downloaded."
  )
  DESCRIPTION = ""
  CITATION = ""
  LICENSE = ""
  HOMEPAGE = ""

  # Checksums are looked after by `source_files`.
  url_infos = None
  manual_dir: pathlib.Path | None = None
  verify_checksums: bool = True

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=f"{self.DESCRIPTION} {self.builder_config.description}",
      features=self.builder_config.make_features(),
      homepage=self.HOMEPAGE,
      citation=self.CITATION,
      license=self.LICENSE,
      disable_shuffling=self.builder_config.is_ordered,
    )

  def _download_and_prepare(
    self,
    dl_manager: tfds.download.DownloadManager,
    download_config: Any = None,
  ) -> None:
    """Writes every split; TFDS renames the whole folder afterwards."""
    del download_config
    target = pathlib.Path(self.data_dir)
    home = target.parent
    with lock_folder(home):
      _remove_leftovers(home, but=target)
      sums_file = home / SOURCES_FILE
      recorded = read_json(sums_file) if sums_file.exists() else {}
      paths, sums = self._find_sources(dl_manager, recorded)
      work = _open_work_folder(home / _WORK_FOLDER, self._fingerprint(sums))
      # Nothing is moved before all is written: a kill loses no finished shard.
      counts = {
        name: self._write_split(name, paths[name], work) for name in paths
      }
      splits = [self._move_split(name, counts[name], work) for name in paths]
      self.info.set_splits(tfds.core.splits.SplitDict(splits))
      write_json(sums_file, {**recorded, **sums})
      shutil.rmtree(work)

  def _find_sources(
    self,
    dl_manager: tfds.download.DownloadManager,
    recorded: Mapping[str, str],
  ) -> tuple[dict[str, pathlib.Path], dict[str, str]]:
    manual_dir = self.manual_dir or _find_manual_dir(dl_manager)
    paths, sums = {}, {}
    for split, source in self.builder_config.splits.items():
      paths[split] = path = find_source(
        source.file,
        manual_dir=manual_dir,
        download_dir=pathlib.Path(dl_manager.download_dir),
      )
      if path.name not in sums:
        sums[path.name] = verify_source(
          path,
          source.file,
          recorded=recorded,
          accept_others=not self.verify_checksums,
        )
    return paths, sums

  def _fingerprint(self, sums: Mapping[str, str]) -> dict[str, Any]:
    rows_per_shard = self.builder_config.rows_per_shard
    return {
      "version": str(self.version),
      "rows_per_shard": rows_per_shard,
      **sums,
    }

  def _write_split(
    self, split: str, path: pathlib.Path, work: pathlib.Path
  ) -> list[_Counts]:
    source = self.builder_config.splits[split]
    examples = tqdm.tqdm(
      source.read(path), desc=split, total=source.num_rows, unit=" rows"
    )
    with examples:
      return self._write_shards(iter(examples), work / split)

  def _move_split(
    self, split: str, counts: Sequence[_Counts], work: pathlib.Path
  ) -> tfds.core.SplitInfo:
    template = self._get_filename_template(split_name=split)
    for index in range(len(counts)):
      shard = work / split / f"{index:05d}" / _SHARD_FILE
      shard.replace(
        template.sharded_filepath(shard_index=index, num_shards=len(counts))
      )
    return tfds.core.SplitInfo(
      name=split,
      shard_lengths=[count["rows"] for count in counts],
      num_bytes=sum(count["bytes"] for count in counts),
      filename_template=template,
    )

  def _write_shards(
    self, examples: Iterator[Example], folder: pathlib.Path
  ) -> list[_Counts]:
    """Writes what is not there yet; returns rows and bytes of each shard."""
    counts: list[_Counts] = []
    while True:
      shard = folder / f"{len(counts):05d}"
      if shard.exists():
        counts.append(read_json(shard / _COUNTS_FILE))
        _skip(examples, counts[-1]["rows"])
        continue
      first = next(examples, None)
      if first is None:
        return counts
      rows = itertools.islice(examples, self.builder_config.rows_per_shard - 1)
      with atomic_path(shard) as partial:
        partial.mkdir()
        counts.append(
          self._write_shard(itertools.chain([first], rows), partial)
        )

  def _write_shard(
    self, examples: Iterator[Example], folder: pathlib.Path
  ) -> _Counts:
    counts = {"rows": 0, "bytes": 0}

    def serialize() -> Iterator[tuple[int, bytes]]:
      for example in examples:
        record = serialize_example(example)
        yield counts["rows"], record
        counts["rows"] += 1
        counts["bytes"] += len(record)

    self._example_writer().write(folder / _SHARD_FILE, serialize())
    write_json(folder / _COUNTS_FILE, counts)
    return counts

  def _example_writer(self) -> tfds.core.writer.ExampleWriter:
    return tfds.core.writer.ExampleWriter(file_format=self.info.file_format)


def _skip(examples: Iterator[Example], count: int) -> None:
  collections.deque(itertools.islice(examples, count), maxlen=0)


def _find_manual_dir(
  dl_manager: tfds.download.DownloadManager,
) -> pathlib.Path | None:
  try:
    return pathlib.Path(dl_manager.manual_dir)
  except AssertionError:  # TFDS's word for a folder that is not there or empty
    return None


def _remove_leftovers(home: pathlib.Path, *, but: pathlib.Path) -> None:
  """Removes temporary folders that TFDS left when it was killed."""
  for folder in home.glob(f"{tfds.core.constants.INCOMPLETE_PREFIX}*"):
    if folder.name != but.name:
      shutil.rmtree(folder)


def _open_work_folder(
  folder: pathlib.Path, fingerprint: Mapping[str, Any]
) -> pathlib.Path:
  """The folder of finished shards; those of other sources are thrown away."""
  made_from = folder / "made_from.json"
  if folder.exists():
    if made_from.exists() and read_json(made_from) == fingerprint:
      return folder
    shutil.rmtree(folder)
  folder.mkdir()
  write_json(made_from, fingerprint)
  return folder
