"""Encoder of a few questions at a time, by programs compiled beforehand."""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float32

from xqg_jax.encoding.batches import make_batches
from xqg_jax.encoding.embedder import Embedder
from xqg_jax.models.dual_encoder.dual_encoder import DualEncoder
from xqg_jax.store.vector_checks import check_queries

MAX_BATCH = 8
# Half a program too many costs a moment at the start; half the row is padding
# for every question, for ever.
_ROW_LENGTHS = (16, 24, 32, 48, 64, 96, 128, 256, 512)


class QuestionEncoder:
  """Encodes a few questions at a time, by programs compiled beforehand."""

  def __init__(self, encoder: DualEncoder):
    """Puts the parameters on one device; compiles nothing yet."""
    self._encoder = encoder
    # One question is too little work to share among devices.
    self._embedder = Embedder(encoder, jax.local_devices()[:1])
    longest = encoder.config.query_length
    lengths = [n for n in _ROW_LENGTHS if n < longest]
    self._rows_per_batch = dict.fromkeys([*lengths, longest], 1)

  def warm_up(self) -> None:
    """Compiles every program, so that no question waits for it."""
    (tokens,) = self._encoder.tokenizer.encode_batch(["warm"], max_length=3)
    for length in self._rows_per_batch:
      self._embed([np.resize(tokens, length)])

  def encode(
    self, questions: Sequence[str]
  ) -> Float32[np.ndarray, "questions dim"]:
    """Embeds at most `MAX_BATCH` questions.

    Raises:
      InputError: an embedding that is not finite.
    """
    texts = [self._encoder.format_query(question) for question in questions]
    tokens = self._encoder.tokenizer.encode_batch(
      texts, max_length=self._encoder.config.query_length
    )
    embeddings = self._embed(tokens)
    check_queries(embeddings, dim=self._encoder.dim, k=1)
    return embeddings

  def _embed(
    self, tokens: Sequence[np.ndarray]
  ) -> Float32[np.ndarray, "questions dim"]:
    batches = make_batches(
      tokens,
      np.arange(len(tokens)),
      num_targets=MAX_BATCH,
      rows_per_batch=self._rows_per_batch,
      pad_id=self._encoder.tokenizer.pad_id,
      side="query",
    )
    embedded = self._embedder.sum_texts(batches, num_targets=MAX_BATCH)
    return np.asarray(embedded)[: len(tokens)]
