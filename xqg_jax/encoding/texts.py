"""Embeddings of a list of texts, in the order given."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32

from xqg_jax.encoding.batches import Batch, choose_rows_per_batch, make_batches
from xqg_jax.encoding.embedder import Embedder
from xqg_jax.errors import InputError
from xqg_jax.models.dual_encoder.config import Side
from xqg_jax.models.dual_encoder.dual_encoder import DualEncoder
from xqg_jax.runtime.prefetch import prefetch

TEXTS_PER_CHUNK = 8192


def encode_texts(
  encoder: DualEncoder,
  texts: Sequence[str],
  *,
  side: Side,
  max_length: int,
  row_lengths: Sequence[int] | None = None,
  tokens_per_batch: int | None = None,
) -> Float32[np.ndarray, "texts dim"]:
  """Embeds texts, packed into rows, on all local devices.

  Args:
    encoder: the dual encoder.
    texts: as `encoder.format_query` or `encoder.format_passage` made them.
    side: which of the two they are; generated queries are queries.
    max_length: tokens kept of a text.
    row_lengths: row lengths to pack into; chosen by platform when absent.
    tokens_per_batch: size of a batch; chosen by platform when absent.

  Returns:
    One embedding per text, in the order of the texts.

  Raises:
    InputError: an embedding that is not finite.
  """
  embedder = Embedder(encoder)
  # Few sizes of results, so that calls share their compiled programs.
  capacity = min(TEXTS_PER_CHUNK, 1 << max(0, len(texts) - 1).bit_length())
  rows_per_batch = choose_rows_per_batch(
    max_length=max_length,
    mesh=embedder.mesh,
    row_lengths=row_lengths,
    tokens_per_batch=tokens_per_batch,
    max_tokens=capacity * max_length,
  )

  def make_chunk(start: int) -> list[Batch]:
    tokens = encoder.tokenizer.encode_batch(
      texts[start : start + capacity], max_length=max_length
    )
    return make_batches(
      tokens,
      np.arange(len(tokens)),
      num_targets=capacity,
      rows_per_batch=rows_per_batch,
      pad_id=encoder.tokenizer.pad_id,
      side=side,
    )

  embeddings = np.zeros((len(texts), encoder.dim), np.float32)
  starts = range(0, len(texts), capacity)
  for start, batches in zip(
    starts, prefetch(map(make_chunk, starts)), strict=True
  ):
    sums = embedder.sum_texts(batches, num_targets=capacity)
    embeddings[start : start + capacity] = np.asarray(sums)[
      : len(texts) - start
    ]
  _check_finite(embeddings)
  return embeddings


def _check_finite(embeddings: Float[np.ndarray, "texts dim"]) -> None:
  is_good = np.isfinite(embeddings).all(axis=1)
  if not is_good.all():
    raise InputError(
      f"the embedding of text {int(np.argmin(is_good))} is not finite",
      mend="check the checkpoint for NaN",
    )
