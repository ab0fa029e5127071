"""Catalogue of the public data sets, and their preparation with TFDS."""

import pathlib
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds

import xqg_jax.datasets
from xqg_jax.datasets.writing.plain_files import write_plain_files
from xqg_jax.errors import InputError
from xqg_jax.io.paths import Path


def list_datasets() -> list[str]:
  """Names of the data sets, each with its configuration.

  >>> list_datasets()[:3]
  ['natural_questions_dpr/dpr', 'natural_questions_dpr/tevatron', \
'wiki_passages/enwiki_2019']
  """
  builders = (getattr(xqg_jax.datasets, n) for n in xqg_jax.datasets.__all__)
  return [f"{b.name}/{c.name}" for b in builders for c in b.BUILDER_CONFIGS]


def prepare_dataset(
  *,
  dataset: str,
  output_dir: Path,
  manual_dir: Path | None,
  verify_checksums: bool,
  plain_files: bool,
) -> Path:
  """Prepares one data set in a TFDS folder; see `preparation.prepare`."""
  if dataset not in list_datasets():
    raise InputError(
      f"unknown data set {dataset!r}",
      mend=f"known: xor_mini, {', '.join(list_datasets())}",
    )
  if manual_dir is not None and not manual_dir.is_dir():
    raise InputError(
      "no such folder", where=manual_dir, mend="check MANUAL_DIR"
    )
  tf.config.set_visible_devices([], "GPU")
  name, config_name = dataset.split("/")
  builder: Any = tfds.builder_cls(name)(config=config_name, data_dir=output_dir)
  builder.manual_dir = manual_dir
  builder.verify_checksums = verify_checksums
  config = tfds.download.DownloadConfig(try_download_gcs=False)
  builder.download_and_prepare(download_config=config)
  if plain_files:
    write_plain_files(builder, output_dir / "plain" / dataset)
  return pathlib.Path(builder.data_dir)
