"""TFDS builder `natural_questions_dpr`: NQ with DPR's hard negatives.

For training a dual encoder in English that then searches for other languages.
No checksum is published for these files: the first preparation records it.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from xqg_jax.data.json_lines import get_field
from xqg_jax.data.passages import Passage
from xqg_jax.data.training_pairs import TrainingPair, read_training_pairs
from xqg_jax.datasets.reading.json_arrays import read_json_array
from xqg_jax.datasets.reading.source_files import SourceFile
from xqg_jax.datasets.writing.pair_features import (
  make_pair_features,
  to_pair_example,
)
from xqg_jax.datasets.writing.streaming import (
  Example,
  SplitSource,
  StreamedBuilder,
  StreamedConfig,
)
from xqg_jax.errors import InputError
from xqg_jax.io.paths import Path

_DPR = "https://dl.fbaipublicfiles.com/dpr/data/retriever"
_TEVATRON = "https://huggingface.co/datasets/Tevatron/wikipedia-nq/resolve/main"

_ID_NAMES = ("passage_id", "psg_id", "docid")


def _read_dpr_examples(path: Path) -> Iterator[Example]:
  """Reads DPR's own form; a question's id is its number in the file.

  DPR's reader leaves out rows without positives, so this one does too and
  says how many there were. Hard negatives are `hard_negative_ctxs`, or
  `negative_ctxs` where there are none.
  """
  index, left_out = -1, 0
  for index, (where, row) in enumerate(read_json_array(path)):
    positives = _to_passages(row, "positive_ctxs", where)
    if not positives:
      left_out += 1
      continue
    yield to_pair_example(
      TrainingPair(
        query_id=str(index),
        query=get_field(row, "question", where),
        language="en",
        positives=positives,
        negatives=_to_passages(row, "hard_negative_ctxs", where)
        or _to_passages(row, "negative_ctxs", where),
        answers=tuple(get_field(row, "answers", where)),
      )
    )
  if left_out == index + 1:
    raise InputError(
      "no row with a positive passage", where=path, mend="check the file"
    )
  if left_out:
    logging.getLogger(__name__).warning(
      "%s: left out %d of %d rows, which have no positive passage",
      path,
      left_out,
      index + 1,
    )


def _to_passages(
  row: Mapping[str, Any], name: str, where: str
) -> tuple[Passage, ...]:
  contexts: Sequence[Mapping[str, Any]] = get_field(row, name, where)
  return tuple(_to_passage(context, where) for context in contexts)


def _to_passage(context: Mapping[str, Any], where: str) -> Passage:
  text = get_field(context, "text", where)
  title = context.get("title") or ""
  ids = (str(context[name]) for name in _ID_NAMES if name in context)
  digest = hashlib.sha256(f"{title}\n{text}".encode()).hexdigest()[:16]
  return Passage(next(ids, digest), text, title)


def _read_tevatron_examples(path: Path) -> Iterator[Example]:
  for pair in read_training_pairs(path):
    yield {**to_pair_example(pair), "language": "en"}


def _make_config(
  name: str,
  *,
  description: str,
  urls: Mapping[str, str],
  read: Callable[[Path], Iterator[Example]],
  num_rows: Mapping[str, int],
) -> StreamedConfig:
  return StreamedConfig(
    name=name,
    description=description,
    make_features=make_pair_features,
    splits={
      split: SplitSource(
        file=SourceFile(url=url), read=read, num_rows=num_rows[split]
      )
      for split, url in urls.items()
    },
    rows_per_shard=500,
  )


class NaturalQuestionsDpr(StreamedBuilder):
  """Natural Questions with positives and hard negatives, from DPR."""

  DESCRIPTION = (
    "Natural Questions with positive passages and BM25's hard negatives from "
    "English Wikipedia."
  )
  HOMEPAGE = "https://github.com/facebookresearch/DPR"
  LICENSE = "https://dl.fbaipublicfiles.com/dpr/nq_license/LICENSE"
  CITATION = r"""
    @article{kwiatkowski-etal-2019-natural,
      title = {Natural Questions: A Benchmark for Question Answering Research},
      author = {Kwiatkowski, Tom and others},
      journal = {Transactions of the Association for Computational Linguistics},
      volume = {7},
      year = {2019},
      url = {https://aclanthology.org/Q19-1026}
    }
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
  DEFAULT_BUILDER_CONFIG_NAME = "dpr"
  BUILDER_CONFIGS = (
    _make_config(
      "dpr",
      description="From DPR's own files.",
      urls={
        "train": f"{_DPR}/biencoder-nq-train.json.gz",
        "validation": f"{_DPR}/biencoder-nq-dev.json.gz",
      },
      read=_read_dpr_examples,
      num_rows={"train": 58_880, "validation": 6_515},
    ),
    _make_config(
      "tevatron",
      description="From Tevatron's files.",
      urls={
        "train": f"{_TEVATRON}/nq-train.jsonl.gz",
        "validation": f"{_TEVATRON}/nq-dev.jsonl.gz",
      },
      read=_read_tevatron_examples,
      num_rows={"train": 58_622, "validation": 6_490},
    ),
  )
