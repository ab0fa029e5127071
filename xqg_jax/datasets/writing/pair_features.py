"""TFDS features of training pairs, the same in every data set that has them."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds

from xqg_jax.data.passages import Passage
from xqg_jax.data.training_pairs import TrainingPair


def make_pair_features() -> tfds.features.FeaturesDict:
  """Features of one query with its positive and negative passages."""
  passage = {
    name: tfds.features.Text() for name in ("passage_id", "title", "text")
  }
  return tfds.features.FeaturesDict(
    {
      "query_id": tfds.features.Text(),
      "query": tfds.features.Text(),
      "language": tfds.features.Text(),
      "answers": tfds.features.Sequence(tfds.features.Text()),
      "positive_passages": tfds.features.Sequence(passage),
      "negative_passages": tfds.features.Sequence(passage),
    }
  )


def to_pair_example(pair: TrainingPair) -> dict[str, Any]:
  """A pair in the features of `make_pair_features`."""
  return {
    "query_id": pair.query_id,
    "query": pair.query,
    "language": pair.language,
    "answers": list(pair.answers),
    "positive_passages": [_from_passage(p) for p in pair.positives],
    "negative_passages": [_from_passage(p) for p in pair.negatives],
  }


def _from_passage(passage: Passage) -> dict[str, str]:
  return {
    "passage_id": passage.passage_id,
    "title": passage.title,
    "text": passage.text,
  }


def from_pair_texts(texts: Mapping[str, Sequence[str]]) -> TrainingPair:
  """The pair in the texts of a record, as `parse_texts` gives them."""
  return TrainingPair(
    query_id=texts["query_id"][0],
    query=texts["query"][0],
    language=texts["language"][0],
    positives=tuple(_to_passages(texts, "positive_passages")),
    negatives=tuple(_to_passages(texts, "negative_passages")),
    answers=tuple(texts.get("answers", ())),
  )


def _to_passages(
  texts: Mapping[str, Sequence[str]], name: str
) -> Iterator[Passage]:
  fields = ("passage_id", "text", "title")
  columns = (texts.get(f"{name}/{field}", ()) for field in fields)
  return itertools.starmap(Passage, zip(*columns, strict=True))
