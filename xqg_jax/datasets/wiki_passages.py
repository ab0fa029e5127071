"""TFDS builder `wiki_passages`: Wikipedia in blocks of 100 words, as DPR TSV.

Checksums: that of `psgs_w100.tsv.gz` is the one that Hugging Face's `datasets`
published for the same URL. None is known for `enwiki_20190201_w100.tsv`: the
first preparation records it.
"""

from collections.abc import Iterator

import tensorflow_datasets as tfds

from xqg_jax.data.passages import read_passages
from xqg_jax.datasets.reading.source_files import SourceFile
from xqg_jax.datasets.writing.streaming import (
  Example,
  SplitSource,
  StreamedBuilder,
  StreamedConfig,
)
from xqg_jax.io.paths import Path

ENWIKI_2019 = SourceFile(
  url="https://nlp.cs.washington.edu/xorqa/XORQA_site/data/models/"
  "enwiki_20190201_w100.tsv"
)
PSGS_W100 = SourceFile(
  url="https://dl.fbaipublicfiles.com/dpr/wikipedia_split/psgs_w100.tsv.gz",
  sha256="c39b020c855a2b5c25ffef3abe4a3b6f9b829ad7dbc14ec3d163d34d7c53ea8d",
)


def _read_passage_examples(path: Path) -> Iterator[Example]:
  for passage in read_passages(path):
    yield {
      "passage_id": passage.passage_id,
      "text": passage.text,
      "title": passage.title,
    }


def _make_config(
  name: str, file: SourceFile, *, num_rows: int, description: str
) -> StreamedConfig:
  return StreamedConfig(
    name=name,
    description=description,
    make_features=lambda: tfds.features.FeaturesDict(
      {key: tfds.features.Text() for key in ("passage_id", "text", "title")}
    ),
    splits={
      "train": SplitSource(
        file=file, read=_read_passage_examples, num_rows=num_rows
      )
    },
    rows_per_shard=250_000,
    is_ordered=True,
  )


class WikiPassages(StreamedBuilder):
  """English Wikipedia in passages of 100 words, in the files' order."""

  DESCRIPTION = "English Wikipedia in disjoint passages of 100 words."
  HOMEPAGE = "https://github.com/facebookresearch/DPR"
  LICENSE = "Wikipedia's text: CC BY-SA"
  CITATION = r"""
    @inproceedings{karpukhin-etal-2020-dense,
      title = {Dense Passage Retrieval for Open-Domain Question Answering},
      author = {Karpukhin, Vladimir and Oguz, Barlas and Min, Sewon and
                Lewis, Patrick and Wu, Ledell and Edunov, Sergey and
                Chen, Danqi and Yih, Wen-tau},
      booktitle = {Proceedings of EMNLP},
      year = {2020},
      url = {https://aclanthology.org/2020.emnlp-main.550}
    }
  """
  DEFAULT_BUILDER_CONFIG_NAME = "enwiki_2019"
  BUILDER_CONFIGS = (
    _make_config(
      "enwiki_2019",
      ENWIKI_2019,
      num_rows=18_200_000,
      description="Of 2019-02-01, the corpus of XOR-Retrieve.",
    ),
    _make_config(
      "psgs_w100",
      PSGS_W100,
      num_rows=21_015_324,
      description="Of December 2018, the corpus of DPR.",
    ),
  )
