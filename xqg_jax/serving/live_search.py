"""Live search: questions one at a time, every alpha from two products.

The score of a passage is `(1 - alpha) (q.p - q.m) + alpha q.S`: p its vector,
S the sum or mean of its queries' vectors, m the mean vector that the
augmentation removes, if it does. Alpha can therefore move after both products
are known. A passage without queries, where a mean is asked for, has its own
vector in the place of S.

A centred question is q - s o, o the mean of its language: s can move, too, once
the products of o are known, which are the same for all questions of a language.
"""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int

from xqg_jax.augmentation.centering import (
  NOT_CENTERED,
  Centering,
  CenterSettings,
  open_means,
)
from xqg_jax.augmentation.fusion import group_weights, sum_groups
from xqg_jax.augmentation.language_means import (
  has_means,
)
from xqg_jax.augmentation.settings import Augmentation, Reduction
from xqg_jax.augmentation.views import AugmentedView
from xqg_jax.checkpoints import load_dual_encoder
from xqg_jax.data.languages import identify_language
from xqg_jax.errors import InputError
from xqg_jax.indexes.index import Index
from xqg_jax.indexes.kinds import check_encoder, open_index
from xqg_jax.models.dual_encoder.config import DualEncoderConfig
from xqg_jax.models.dual_encoder.dual_encoder import DualEncoder
from xqg_jax.serving.products import Products
from xqg_jax.serving.question_encoder import QuestionEncoder
from xqg_jax.store.vector_checks import check_vectors

# Passages that a ScaNN index proposes; they are then scored exactly.
NUM_CANDIDATES = 200
# By how much questions are centred for candidates where the slider begins at 0.
_PROPOSING_STRENGTH = 0.8
_BLOCK_SIZE = 65_536


# ------------------------------------------------------------------ passages


@dataclasses.dataclass(frozen=True)
class _Vectors:
  """A view's two vectors a passage, in memory.

  `queries` is what alpha weighs: the sum, or the mean, of the queries.
  """

  passages: Float32[np.ndarray, "passages dim"]
  queries: Float32[np.ndarray, "passages dim"] | None
  mean: Float32[np.ndarray, " dim"] | None

  @classmethod
  def read(cls, view: AugmentedView) -> "_Vectors":
    shape = view.num_passages, view.dim
    passages = np.empty(shape, np.float32)
    augmentation = view.augmentation
    queries = None if augmentation is None else np.empty(shape, np.float32)
    means = view.means
    for block in view.store.blocks(
      _BLOCK_SIZE, use_queries=queries is not None
    ):
      check_vectors(block.passages, "passage", first_row=block.start)
      here = slice(block.start, block.start + len(block.passages))
      passages[here] = block.passages
      if queries is None or augmentation is None:
        continue
      query_sum, count = sum_groups(
        block, group_weights(view.store.groups, augmentation)
      )
      alone = block.passages
      if means is not None:
        alone, query_sum = means.remove(alone, query_sum, count)
      if augmentation.reduction == "mean":
        has_queries = count[:, None] > 0
        divisor = np.where(has_queries, count[:, None], 1)
        query_sum = np.where(has_queries, query_sum / divisor, alone)
      check_vectors(query_sum, "query sum", first_row=block.start)
      queries[here] = query_sum
    return cls(passages, queries, None if means is None else means.passage)

  def multiply(
    self,
    embeddings: Float32[np.ndarray, "questions dim"],
    candidates: Sequence[Int[np.ndarray, " _"] | None],
  ) -> list[Products]:
    """Both products of each question with its candidates (None: all)."""
    return [
      self._multiply_one(embedding, rows)
      for embedding, rows in zip(embeddings, candidates, strict=True)
    ]

  def _multiply_one(
    self,
    embedding: Float32[np.ndarray, " dim"],
    rows: Int[np.ndarray, " _"] | None,
  ) -> Products:
    chosen = slice(None) if rows is None else rows
    of_queries = None
    if self.queries is not None:
      of_queries = self.queries[chosen] @ embedding
    return Products(
      np.arange(len(self.passages)) if rows is None else rows,
      self.passages[chosen] @ embedding,
      of_queries,
      0.0 if self.mean is None else float(self.mean @ embedding),
    )


# ---------------------------------------------------------------- the search


class LiveSearch:
  """An index and its encoder, in memory; a context manager.

  An exact index scores all passages. A ScaNN index proposes `NUM_CANDIDATES`,
  and so does the index of the baseline; what they propose is scored exactly.

  Attributes:
    index: the index given.
    augmentation: None where there are no generated queries.
    centering: what is subtracted from questions, unless a strength is asked
      for; its means are None where there are none.
  """

  def __init__(
    self,
    *,
    index: str | os.PathLike,
    checkpoint_path: str | os.PathLike,
    encoder: DualEncoderConfig | None = None,
    baseline_index: str | os.PathLike | None = None,
    reduction: Reduction = "sum",
    alpha: float = 0.01,
    centering: CenterSettings = NOT_CENTERED,
    warm_up: bool = True,
  ):
    """Opens and checks everything, reads the vectors and compiles.

    Args:
      index: folder that `index` wrote.
      checkpoint_path: the dual encoder that also encoded the passages.
      encoder: pooling, prefixes and lengths; the checkpoint's own when absent.
      baseline_index: index of the same store without augmentation; proposes
        candidates beside a ScaNN index.
      reduction: "sum" or "mean", where the index is not of a view.
      alpha: where the index is not of a view.
      centering: of questions. Means that the store or these settings have are
        read at any strength, so that it can move.
      warm_up: whether to compile now for questions of every length; without
        it each length is compiled for when it is first asked, which is sooner
        done where only one is.

    Raises:
      InputError: no index there, one of another encoder or store, changed or
        missing files, or vectors that are not finite.
      ScannError: ScaNN failed or crashed.
    """
    self.index = open_index(index)
    model = load_dual_encoder(checkpoint_path, config=encoder)
    check_encoder(self.index, model)
    view = _open_indexed_view(self.index)
    if view.augmentation is None and view.store.groups:
      augmentation = Augmentation(reduction=reduction, alpha=alpha)
      view = dataclasses.replace(view, augmentation=augmentation)
    self.augmentation = view.augmentation
    self.centering = _open_centering(centering, view, model)
    self.passage_ids = self.index.passage_ids
    self._indexes = [self.index]
    if baseline_index is not None:
      self._indexes.append(_open_baseline(baseline_index, view, model))
    self._vectors = _Vectors.read(view)
    self._encoder = QuestionEncoder(model)
    self._offsets: dict[str | None, Products] = {}
    if warm_up:
      self._encoder.warm_up()
      # ScaNN's process starts, and its files are checked, before a question.
      self.find(["warm"])

  @property
  def is_exact(self) -> bool:
    """Whether all passages are scored."""
    return any(index.is_exact for index in self._indexes)

  def find(
    self,
    questions: Sequence[str],
    languages: Sequence[str | None] | None = None,
  ) -> list[Products]:
    """Encodes at most `MAX_BATCH` questions and scores the passages.

    Args:
      questions: their texts.
      languages: code of each, where it is known.

    Raises:
      InputError: an embedding that is not finite.
      ScannError: ScaNN failed or crashed.
    """
    embeddings = self._encoder.encode(questions)
    if self.centering.means is None:
      return self._vectors.multiply(embeddings, self._propose(embeddings))
    given = [None] * len(questions) if languages is None else languages
    resolved = [
      self._find_language(question, language)
      for question, language in zip(questions, given, strict=True)
    ]
    offsets = self.centering.means.select(resolved, by=self.centering.by)
    offsets = offsets.astype(np.float32)
    found = self._vectors.multiply(
      embeddings, self._propose(embeddings, offsets)
    )
    return [
      products._replace(
        offset=self._multiply_offset(offset, products.rows, language),
        language=language,
      )
      for products, offset, language in zip(
        found, offsets, resolved, strict=True
      )
    ]

  def _find_language(self, question: str, language: str | None) -> str | None:
    """The language whose mean a question loses; None: the mean over all."""
    means = self.centering.means
    known = () if means is None else means.languages
    if self.centering.by == "all":
      return None
    if language is None:
      return identify_language(question, known)
    return language if language in known else None

  def _multiply_offset(
    self,
    offset: Float32[np.ndarray, " dim"],
    rows: Int[np.ndarray, " _"],
    language: str | None,
  ) -> Products:
    """Of all passages once a language; of candidates for each question."""
    if not self.is_exact:
      (products,) = self._vectors.multiply(offset[None], [rows])
      return products
    if language not in self._offsets:
      (self._offsets[language],) = self._vectors.multiply(offset[None], [None])
    return self._offsets[language]

  def _propose(
    self,
    embeddings: Float32[np.ndarray, "questions dim"],
    offsets: Float32[np.ndarray, "questions dim"] | None = None,
  ) -> list[Int[np.ndarray, " _"] | None]:
    """The rows worth scoring, by question; None: all.

    With means, those of the question as it is and of the centred one.
    """
    if self.is_exact:
      return [None] * len(embeddings)
    asked = [embeddings]
    if offsets is not None:
      strength = np.float32(self.centering.strength or _PROPOSING_STRENGTH)
      asked.append(embeddings - strength * offsets)
    found = [
      index.search(vectors, NUM_CANDIDATES)[1]
      for index in self._indexes
      for vectors in asked
    ]
    proposed = [np.unique(rows) for rows in np.concatenate(found, axis=1)]
    return [rows[rows >= 0] for rows in proposed]

  def close(self) -> None:
    """Ends ScaNN's processes, if there are any."""
    for index in self._indexes:
      index.close()

  def __enter__(self) -> "LiveSearch":
    return self

  def __exit__(self, *exception: object) -> None:
    self.close()


def _open_centering(
  settings: CenterSettings, view: AugmentedView, model: DualEncoder
) -> Centering:
  """With the means if there are any, even where the strength is 0."""
  store = view.store.path
  if settings.means is None and not settings.strength and not has_means(store):
    return Centering(None, 0.0, settings.by)
  means = open_means(
    store if settings.means is None else settings.means,
    encoder_fingerprint=model.fingerprint,
    dim=view.dim,
  )
  # Loads the model that tells languages apart before a question comes.
  identify_language("warm", means.languages)
  return Centering(means, settings.strength, settings.by)


def _open_indexed_view(index: Index) -> AugmentedView:
  view = index.open_embeddings()
  if not view.num_passages:
    raise InputError(
      "the index is empty", where=index.path, mend="encode some passages"
    )
  return view


def _open_baseline(
  path: str | os.PathLike, view: AugmentedView, model: DualEncoder
) -> Index:
  index = open_index(path)
  check_encoder(index, model)
  if _open_indexed_view(index).fingerprint != view.store.fingerprint:
    raise InputError(
      "the baseline's index is not of the same store as it is",
      where=path,
      mend="build it with EMBEDDINGS = the store of the augmented view",
    )
  return index
