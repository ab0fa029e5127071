"""Encoders, their vectors, and ranks of the study on centred questions."""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from centering_collections import Collection
from jaxtyping import Float, Int

from xqg_jax.augmentation.language_means import (
  LanguageMeans,
  measure_means,
)
from xqg_jax.checkpoints import load_dual_encoder
from xqg_jax.data.passages import Passage
from xqg_jax.encoding.texts import encode_texts
from xqg_jax.models.dual_encoder.config import DualEncoderConfig

E5 = DualEncoderConfig(
  pooling="mean",
  normalize=True,
  query_prefix="query: ",
  passage_prefix="passage: ",
  query_length=64,
  passage_length=512,
)


class Encoder(Protocol):
  """Makes vectors of texts."""

  name: str

  def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
    """One row a text."""

  def encode_passages(self, passages: Sequence[Passage]) -> np.ndarray:
    """One row a passage."""


class CheckpointEncoder:
  """A dual encoder by this package."""

  def __init__(self, path: pathlib.Path):
    """Loads it with the settings of the e5 family."""
    self.name = path.name
    self._model = load_dual_encoder(path, config=E5)

  def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
    """As queries."""
    texts = [self._model.format_query(text) for text in texts]
    return encode_texts(
      self._model, texts, side="query", max_length=E5.query_length
    )

  def encode_passages(self, passages: Sequence[Passage]) -> np.ndarray:
    """As passages."""
    texts = [self._model.format_passage(passage) for passage in passages]
    return encode_texts(
      self._model, texts, side="passage", max_length=E5.passage_length
    )


class OnnxEncoder:
  """A model in ONNX that takes texts and makes no difference of sides.

  universal-sentence-encoder-multilingual in int8, for example; needs the
  packages onnxruntime and onnxruntime-extensions.
  """

  def __init__(self, path: pathlib.Path):
    """Opens the file."""
    import onnxruntime
    from onnxruntime_extensions import get_library_path

    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(get_library_path())
    self.name = path.stem
    self._session = onnxruntime.InferenceSession(path, options)

  def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
    """One after the other: quantization depends on the batch."""
    run = self._session.run
    found = [run(["outputs"], {"inputs": [text]})[0][0] for text in texts]
    return np.array(found, np.float32)

  def encode_passages(self, passages: Sequence[Passage]) -> np.ndarray:
    """Title and text."""
    return self.encode_queries(
      [f"{p.title} {p.text}".strip() for p in passages]
    )


@dataclasses.dataclass(frozen=True)
class Cache:
  """Vectors that are kept in files, by encoder and texts."""

  encoder: Encoder
  folder: pathlib.Path

  def queries(self, texts: Sequence[str]) -> np.ndarray:
    """Vectors of queries."""
    return self._encode("query", list(texts), self.encoder.encode_queries)

  def passages(self, passages: Sequence[Passage]) -> np.ndarray:
    """Vectors of passages."""
    unique = {f"{p.title}\t{p.text}": p for p in passages}
    keys = [f"{p.title}\t{p.text}" for p in passages]

    def encode(missing: Sequence[str]) -> np.ndarray:
      return self.encoder.encode_passages([unique[key] for key in missing])

    return self._encode("passage", keys, encode)

  def _encode(
    self,
    side: str,
    keys: Sequence[str],
    encode: Callable[[Sequence[str]], np.ndarray],
  ) -> np.ndarray:
    """Each text once, whatever its place in the list."""
    unique = sorted(set(keys))
    digest = hashlib.sha256("\n".join([side, *unique]).encode()).hexdigest()
    path = self.folder / self.encoder.name / f"{digest[:24]}.npy"
    if not path.exists():
      path.parent.mkdir(parents=True, exist_ok=True)
      np.save(path, encode(unique))
    place = {key: row for row, key in enumerate(unique)}
    return np.load(path)[[place[key] for key in keys]]


@dataclasses.dataclass(frozen=True)
class Embedded:
  """A collection with its vectors."""

  collection: Collection
  passages: Float[np.ndarray, "passages dim"]
  questions: Float[np.ndarray, "questions dim"]
  queries: Float[np.ndarray, "queries dim"]

  @classmethod
  def make(cls, collection: Collection, cache: Cache) -> "Embedded":
    """Encodes what is not in the cache."""
    return cls(
      collection,
      cache.passages(collection.passages),
      cache.queries([q.question for q in collection.questions]),
      cache.queries([query.text for query in collection.queries]),
    )

  @property
  def languages(self) -> list[str]:
    """Of the questions."""
    return [q.language for q in self.collection.questions]

  @functools.cached_property
  def means(self) -> LanguageMeans:
    """Of the collection's own queries."""
    codes = [query.language for query in self.collection.queries]
    return measure_means(self.queries, codes)

  @functools.cached_property
  def relevant(self) -> Int[np.ndarray, "questions most"]:
    """Rows of the relevant passages, ascending, -1 after the last."""
    rows = [
      sorted(self.collection.qrels[q.question_id])
      for q in self.collection.questions
    ]
    found = np.full((len(rows), max(map(len, rows))), -1)
    for place, some in enumerate(rows):
      found[place, : len(some)] = some
    return found


def reciprocal_ranks(
  scores: Float[np.ndarray, "questions passages"],
  relevant: Int[np.ndarray, "questions most"],
  depth: int = 10,
) -> Float[np.ndarray, " questions"]:
  """1 / rank of the first relevant passage; of equal scores the lower row.

  >>> scores = np.array([[0.1, 0.9, 0.5], [0.3, 0.3, 0.1]])
  >>> reciprocal_ranks(scores, np.array([[2, -1], [1, -1]])).tolist()
  [0.5, 0.5]
  """
  is_row = relevant >= 0
  found = np.take_along_axis(scores, np.maximum(relevant, 0), axis=1)
  place = np.where(is_row, found, -np.inf).argmax(axis=1)[:, None]
  best = np.take_along_axis(found, place, axis=1)
  row = np.take_along_axis(relevant, place, axis=1)
  before = np.arange(scores.shape[1]) < row
  ranks = 1 + ((scores > best) | ((scores == best) & before)).sum(axis=1)
  return np.where(ranks <= depth, 1 / ranks, 0.0)
