"""Export of prepared data sets to TSV and JSONL files."""

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from xqg_jax.data.passages import Passage, write_passages
from xqg_jax.data.questions import Question, write_questions
from xqg_jax.data.training_pairs import write_training_pairs
from xqg_jax.datasets.writing.pair_features import from_pair_texts
from xqg_jax.datasets.writing.streaming import StreamedBuilder, parse_texts
from xqg_jax.io.files import atomic_path
from xqg_jax.io.paths import Path
from xqg_jax.io.progress import Progress

# The name that the project gives a split's file.
_SPLIT_NAMES = {"train": "train", "validation": "dev"}

Texts = Mapping[str, Sequence[str]]


def write_plain_files(builder: StreamedBuilder, folder: Path) -> None:
  """Writes every split of a prepared data set that is not there yet.

  Passages become `passages.tsv`, questions `questions_<split>.jsonl`, training
  pairs `<split>_pairs.jsonl`; the validation split is called `dev`.
  """
  for split in builder.info.splits:
    name, write, convert = _choose_format(builder, _SPLIT_NAMES[split])
    if (folder / name).exists():
      continue
    with (
      atomic_path(folder / name) as partial,
      open(partial, "w", encoding="utf-8", newline="") as file,
    ):
      write(file, map(convert, _read_texts(builder, split)))


def _choose_format(
  builder: StreamedBuilder, split: str
) -> tuple[str, Callable[..., Any], Callable[[Texts], Any]]:
  features: Any = builder.info.features
  if "positive_passages" in features:
    return f"{split}_pairs.jsonl", write_training_pairs, from_pair_texts
  if "question" in features:
    convert = functools.partial(_to_question, split=split)
    return f"questions_{split}.jsonl", write_questions, convert
  return "passages.tsv", write_passages, _to_passage


def _read_texts(builder: StreamedBuilder, split: str) -> Iterator[Texts]:
  info = builder.info.splits[split]
  records = tf.data.TFRecordDataset([os.fspath(p) for p in info.filepaths])
  yield from map(
    parse_texts,
    Progress(
      (bytes(record) for record in records.as_numpy_iterator()),
      desc=f"plain {split}",
      total=info.num_examples,
      unit=" rows",
    ),
  )


def _to_question(texts: Texts, split: str) -> Question:
  return Question(
    question_id=texts["id"][0],
    question=texts["question"][0],
    language=texts["language"][0],
    answers=tuple(texts["answers"]),
    split=split,
  )


def _to_passage(texts: Texts) -> Passage:
  return Passage(*(texts[name][0] for name in ("passage_id", "text", "title")))
