"""Folders of training and validation pairs with their splits and languages."""

import collections
import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

from xqg_jax.data.languages import get_language
from xqg_jax.data.passages import Passage, read_passages
from xqg_jax.data.qrels import read_qrels
from xqg_jax.data.questions import read_questions
from xqg_jax.data.training_pairs import TrainingPair, read_training_pairs
from xqg_jax.errors import InputError
from xqg_jax.io.local_copies import copy_here
from xqg_jax.io.paths import Path, to_path

# Larger files are streamed anew for each language.
MAX_CACHED_BYTES = 64 * 2**20
# Of a collection's folder: training pairs, and pairs of the dev questions, or
# these and the passages relevant to them.
PAIRS_FILE = "train_pairs.jsonl"
VALIDATION_FILE = "dev_pairs.jsonl"
QUESTIONS_FILE = "questions_dev.jsonl"
QRELS_FILE = "qrels_dev.tsv"


def find_splits(data_dir: str | os.PathLike) -> dict[str, Path]:
  """What each split of a folder's tasks reads, as `read_pairs` takes it."""
  folder = to_path(data_dir)
  splits = {"train": folder / PAIRS_FILE}
  if (folder / VALIDATION_FILE).exists():
    splits["validation"] = folder / VALIDATION_FILE
  elif (folder / QUESTIONS_FILE).exists() and (folder / QRELS_FILE).exists():
    splits["validation"] = folder
  return splits


def keep_splits_in(
  language: str, split_to_path: Mapping[str, Path]
) -> dict[str, Path]:
  """The splits that have pairs in the language, and `train` in any case."""
  return {
    split: path
    for split, path in split_to_path.items()
    if split == "train" or count_pairs(path).get(language)
  }


def find_languages(
  path: Path, languages: Sequence[str] | None = None
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


def read_pairs(path: str | os.PathLike) -> Iterable[TrainingPair]:
  """The pairs of a file, or of the dev questions of a collection's folder.

  A folder needs `questions_dev.jsonl`, `qrels_dev.tsv` and `passages.tsv`: a
  question's positives are its relevant passages. A small file is read once
  for all its languages.

  Raises:
    InputError: as `read_training_pairs`.
  """
  path = copy_here(path)
  if path.is_dir():
    return _read_once(path, (path / QRELS_FILE).stat().st_mtime_ns)
  if not path.exists() or path.stat().st_size > MAX_CACHED_BYTES:
    return read_training_pairs(path)
  return _read_once(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _read_once(path: Path, modified: int) -> tuple[TrainingPair, ...]:
  del modified  # part of the key: a file that changed is read again
  read = _read_judged_pairs if path.is_dir() else read_training_pairs
  return tuple(read(path))


def _read_judged_pairs(folder: Path) -> Iterator[TrainingPair]:
  relevant = {
    question_id: [name for name, relevance in judged.items() if relevance > 0]
    for question_id, judged in read_qrels(folder / QRELS_FILE).items()
  }
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


def count_pairs(path: str | os.PathLike) -> Mapping[str, int]:
  """Counts the pairs of each language (`""`: language not given).

  Raises:
    InputError: as `read_training_pairs`.
  """
  path = copy_here(path)
  return _count_once(path, path.stat().st_mtime_ns if path.exists() else 0)


@functools.lru_cache(maxsize=64)
def _count_once(path: Path, modified: int) -> Mapping[str, int]:
  del modified  # part of the key
  return collections.Counter(pair.language for pair in read_pairs(path))
