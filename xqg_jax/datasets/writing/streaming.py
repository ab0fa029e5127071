"""Streaming TFDS builder: records in file order, resumed by shards.

TFDS's own writer keeps a data set in temporary files that a kill throws away,
and shuffles it. Here each shard is a file of its own that is renamed when it
is whole, so that a second call goes on after the last one. Memory holds one
row at a time.
"""

import dataclasses
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core.constants import INCOMPLETE_PREFIX
from tensorflow_datasets.core.dataset_builder import FileReaderBuilder
from tensorflow_datasets.core.splits import SplitDict
from tensorflow_datasets.core.writer import ExampleWriter

from xqg_jax.datasets.reading.source_files import (
  SourceFile,
  find_source,
  verify_source,
)
from xqg_jax.io.claims import lock_folder
from xqg_jax.io.files import read_json, write_json
from xqg_jax.io.locations import Location
from xqg_jax.io.shard_job import (
  FileRecord,
  Record,
  ShardJob,
  cut_stream,
  run_shards,
)
from xqg_jax.io.typed_json import Count

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

_WORK_FOLDER = ".unfinished"


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


class StreamedBuilder(FileReaderBuilder, skip_registration=True):
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

  @property
  def _config(self) -> StreamedConfig:
    return cast(StreamedConfig, self.builder_config)

  def _info(self) -> tfds.core.DatasetInfo:
    make_features = self._config.make_features
    return tfds.core.DatasetInfo(
      builder=self,
      description=f"{self.DESCRIPTION} {self._config.description}",
      features=make_features and make_features(),
      homepage=self.HOMEPAGE,
      citation=self.CITATION,
      license=self.LICENSE,
      disable_shuffling=self._config.is_ordered,
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
      recorded = (
        read_json(sums_file, dict[str, str]) if sums_file.exists() else {}
      )
      paths, sums = self._find_sources(dl_manager, recorded)
      work = _open_work_folder(
        Location.of(home / _WORK_FOLDER), self._fingerprint(sums)
      )
      # Nothing is moved before all is written: a kill loses no finished shard.
      counts = {
        name: self._write_split(name, paths[name], work) for name in paths
      }
      splits = [self._move_split(name, counts[name], work) for name in paths]
      self.info.set_splits(SplitDict(splits))
      write_json(sums_file, {**recorded, **sums})
      work.delete()

  def _find_sources(
    self,
    dl_manager: tfds.download.DownloadManager,
    recorded: Mapping[str, str],
  ) -> tuple[dict[str, pathlib.Path], dict[str, str]]:
    manual_dir = self.manual_dir or _find_manual_dir(dl_manager)
    paths, sums = {}, {}
    for split, source in self._config.splits.items():
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
    rows_per_shard = self._config.rows_per_shard
    return {
      "version": str(self.version),
      "rows_per_shard": rows_per_shard,
      **sums,
    }

  def _write_split(
    self, split: str, path: pathlib.Path, work: Location
  ) -> list[Record]:
    job = _StreamingJob(
      folder=work / split,
      split=split,
      source=self._config.splits[split],
      path=path,
      rows_per_shard=self._config.rows_per_shard,
      writer=self._example_writer(),
    )
    return run_shards(job)

  def _move_split(
    self, split: str, records: Sequence[Record], work: Location
  ) -> tfds.core.SplitInfo:
    template = self._get_filename_template(split_name=split)
    for index, record in enumerate(records):
      pathlib.Path(work / split / record["name"]).replace(
        template.sharded_filepath(shard_index=index, num_shards=len(records))
      )
    return tfds.core.SplitInfo(
      name=split,
      shard_lengths=[record["rows"] for record in records],
      num_bytes=sum(record["bytes"] for record in records),
      filename_template=template,
    )

  def _example_writer(self) -> ExampleWriter:
    file_format: Any = self.info.file_format
    return ExampleWriter(file_format=file_format)


class StreamedRecord(FileRecord):
  """Of a shard of a split: how much is in it."""

  rows: Count
  bytes: Count


@dataclasses.dataclass(frozen=True, kw_only=True)
class _StreamingJob(ShardJob[Iterator[Example], Any, Iterator[Example]]):
  """Writes one split; a row is read, written and forgotten."""

  folder: Location
  split: str
  source: SplitSource
  path: pathlib.Path
  rows_per_shard: int
  writer: ExampleWriter
  num_shards: None = None
  schema: type = StreamedRecord
  unit: str = "rows"
  overlaps: bool = False

  @property
  def task(self) -> str:
    return self.split

  @property
  def total(self) -> int | None:
    return self.source.num_rows

  def name_shard(self, index: int) -> str:
    return f"{index:05d}.tfrecord"

  def read(self) -> Iterator[Iterator[Example]]:
    return cut_stream(self.source.read(self.path), self.rows_per_shard)

  def write(self, place: Location, made: Iterator[Example]) -> Record:
    counts = {"rows": 0, "bytes": 0}

    def serialize() -> Iterator[tuple[int, bytes]]:
      for example in made:
        record = serialize_example(example)
        yield counts["rows"], record
        counts["rows"] += 1
        counts["bytes"] += len(record)

    self.writer.write(pathlib.Path(place), serialize())
    return counts


def _find_manual_dir(
  dl_manager: tfds.download.DownloadManager,
) -> pathlib.Path | None:
  try:
    return pathlib.Path(dl_manager.manual_dir)
  except AssertionError:  # TFDS's word for a folder that is not there or empty
    return None


def _remove_leftovers(home: pathlib.Path, *, but: pathlib.Path) -> None:
  """Removes temporary folders that TFDS left when it was killed."""
  for folder in home.glob(f"{INCOMPLETE_PREFIX}*"):
    if folder.name != but.name:
      shutil.rmtree(folder)


def _open_work_folder(
  folder: Location, fingerprint: Mapping[str, Any]
) -> Location:
  """The folder of finished shards; those of other sources are thrown away."""
  made_from = folder / "made_from.json"
  if made_from.read_json(dict[str, Any]) != fingerprint:
    folder.delete()
    made_from.write_json(fingerprint)
  return folder
