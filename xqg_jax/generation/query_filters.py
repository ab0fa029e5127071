"""Filters of generated queries: by their text, and by a dual encoder.

A generator invents some of its questions. One that does not find its own
passage, or is far from it, adds noise to the passage's vector (Dai et al. 2023,
"Promptagator"; Gospodinov et al. 2023, "Doc2Query--: When Less is More").
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from xqg_jax.augmentation.centering import (
  NO_CENTERING,
  Centering,
)
from xqg_jax.data.languages import get_language, is_in_script
from xqg_jax.data.passages import Passage
from xqg_jax.encoding.questions import encode_questions
from xqg_jax.encoding.texts import encode_texts
from xqg_jax.generation.health import normalize
from xqg_jax.models.dual_encoder.dual_encoder import DualEncoder

TEXT_FILTERS = ("empty", "duplicate", "sentinel", "script")
# Queries whose products with the sample exist at once.
_ROWS = 1024

Queries = Mapping[str, Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Judged:
  """One query of a block of passages, and the filter that removes it, if any.

  Attributes:
    row: of its passage in the block.
    language: code.
    text: the query.
    removed_by: name of a filter, or None.
  """

  row: int
  language: str
  text: str
  removed_by: str | None


def judge_texts(
  queries: Sequence[Queries], filters: Sequence[str]
) -> list[Judged]:
  """Applies the filters that need nothing but the query's text.

  `empty`; `duplicate` of an earlier query of the passage that is kept, case and
  blanks apart; `sentinel`, a masked word; `script`, fewer than half of the
  letters in the script of the query's language.

  Args:
    queries: of each passage, by language.
    filters: those to apply, of `TEXT_FILTERS`.

  Returns:
    All queries, in order.

  >>> found = judge_texts([{"fi": ["Missä?", "missä? ", "где?"]}], TEXT_FILTERS)
  >>> [judged.removed_by for judged in found]
  [None, 'duplicate', 'script']
  """
  return [
    judged
    for row, by_language in enumerate(queries)
    for judged in _judge_passage(row, by_language, filters)
  ]


def _judge_passage(
  row: int, by_language: Queries, filters: Sequence[str]
) -> Iterator[Judged]:
  seen: set[str] = set()
  for language, texts in by_language.items():
    for text in texts:
      plain = normalize(text)
      signs = {
        "empty": not plain,
        "duplicate": plain in seen,
        "sentinel": "<extra_id_" in plain,
        "script": not is_in_script(text, get_language(language)),
      }
      first = next((name for name in filters if signs[name]), None)
      if first is None:
        seen.add(plain)
      yield Judged(row, language, text, first)


@dataclasses.dataclass(frozen=True, eq=False)
class Judge:
  """Scores queries against their own passages and against a sample of others.

  Attributes:
    encoder: the dual encoder.
    sample_ids: passage ids of the sample.
    sample: their vectors.
    centering: of the queries.
  """

  encoder: DualEncoder
  sample_ids: Sequence[str]
  sample: Float[np.ndarray, "sample dim"]
  centering: Centering = NO_CENTERING

  @classmethod
  def make(
    cls,
    encoder: DualEncoder,
    sample: Sequence[Passage],
    centering: Centering = NO_CENTERING,
  ) -> "Judge":
    """Embeds the sample."""
    ids = [passage.passage_id for passage in sample]
    return cls(encoder, ids, _encode_passages(encoder, sample), centering)

  def score(
    self, passages: Sequence[Passage], queries: Sequence[Judged]
  ) -> tuple[Float[np.ndarray, " queries"], Int[np.ndarray, " queries"]]:
    """Scores the queries of a block, and ranks their passages.

    Args:
      passages: of the block.
      queries: of these passages.

    Returns:
      The inner product of each query with its passage, and the rank of the
      passage, from 1, among it and the sample.
    """
    if not queries:
      return np.zeros(0, np.float32), np.zeros(0, np.int32)
    own = _encode_passages(self.encoder, passages)
    rows = np.array([query.row for query in queries])
    vectors = encode_questions(
      self.encoder,
      [query.text for query in queries],
      [query.language for query in queries],
      centering=self.centering,
    )
    scores = np.einsum("qd,qd->q", vectors, own[rows])
    places = {name: place for place, name in enumerate(self.sample_ids)}
    itself = np.array([places.get(p.passage_id, -1) for p in passages])[rows]
    return scores, self._rank(vectors, scores, itself)

  def _rank(
    self,
    vectors: Float[np.ndarray, "queries dim"],
    scores: Float[np.ndarray, " queries"],
    itself: Int[np.ndarray, " queries"],
  ) -> Int[np.ndarray, " queries"]:
    ranks = []
    for start in range(0, len(vectors), _ROWS):
      some = slice(start, start + _ROWS)
      spare = _ROWS - len(vectors[some])  # one shape, compiled once
      better = _count_better(
        self._sample_on_device,
        np.pad(vectors[some], ((0, spare), (0, 0))),
        np.pad(scores[some], (0, spare)),
        np.pad(itself[some], (0, spare)),
      )
      ranks.append(np.asarray(better)[: _ROWS - spare] + 1)
    return np.concatenate(ranks)

  @functools.cached_property
  def _sample_on_device(self) -> Float[Array, "sample dim"]:
    return jnp.asarray(self.sample)


def _encode_passages(
  encoder: DualEncoder, passages: Sequence[Passage]
) -> Float[np.ndarray, "passages dim"]:
  return encode_texts(
    encoder,
    [encoder.format_passage(passage) for passage in passages],
    side="passage",
    max_length=encoder.config.passage_length,
  )


@jax.jit
def _count_better(
  sample: Float[Array, "sample dim"],
  vectors: Float[Array, "queries dim"],
  scores: Float[Array, " queries"],
  itself: Int[Array, " queries"],
) -> Int[Array, " queries"]:
  """How many passages of the sample score above a query's own passage."""
  found = jnp.matmul(vectors, sample.T, precision=jax.lax.Precision.HIGHEST)
  is_other = jnp.arange(len(sample)) != itself[:, None]
  return ((found > scores[:, None]) & is_other).sum(axis=1)


def find_threshold(
  scores: Float[np.ndarray, " queries"], percentile: float
) -> float:
  """The score below which `percentile` per cent of all queries lie.

  >>> find_threshold(np.arange(11, dtype=np.float32), 30)
  3.0
  """
  place = int(len(scores) * percentile / 100)
  return float(np.partition(scores, place)[place])


def judge_scores(
  scores: Float[np.ndarray, " queries"],
  ranks: Int[np.ndarray, " queries"],
  *,
  k: int | None,
  threshold: float | None,
) -> list[str | None]:
  """The filter that removes each query: `round_trip` or `score`, or None.

  >>> judge_scores(
  ...   np.array([0.9, 0.8, 0.1]), np.array([1, 9, 2]), k=5, threshold=0.5
  ... )
  [None, 'round_trip', 'score']
  """
  is_lost: Bool[np.ndarray, " queries"] = np.zeros(len(ranks), bool)
  if k is not None:
    is_lost = ranks > k
  is_far = np.zeros(len(scores), bool)
  if threshold is not None:
    is_far = scores < threshold
  return [
    "round_trip" if lost else "score" if far else None
    for lost, far in zip(is_lost, is_far, strict=True)
  ]
