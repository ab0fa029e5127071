"""Gradient caching: the rows of a training batch encoded in chunks.

In chunks, a scan goes over the rows and the backward pass encodes each chunk
again instead of keeping its activations (gradient caching: Gao et al. 2021),
so that memory follows the chunk and not the batch. Dropout is drawn by row, so
that loss and gradient do not depend on the size of a chunk.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from xqg_jax.errors import InputError
from xqg_jax.runtime.sharding import DATA


class TextRows(NamedTuple):
  """Rows of texts, padded or packed.

  Attributes:
    tokens: token ids.
    segment_ids: 1 for a row's first text, 2 for its second, ...; 0 = padding.
    positions: position of the token in its own text.
  """

  tokens: Int[Array, "rows length"]
  segment_ids: Int[Array, "rows length"]
  positions: Int[Array, "rows length"]


# Embeds rows, [rows, length] -> [rows, num_segments, dim], with dropout by the
# key, if there is one.
Embed = Callable[[TextRows, Array | None], Float[Array, "rows segments dim"]]


def make_padded_rows(
  tokens: Int[Array, "rows length"], pad_id: int
) -> TextRows:
  """One text a row.

  >>> make_padded_rows(jnp.array([[5, 6, 0]]), 0).segment_ids.tolist()
  [[1, 1, 0]]
  """
  segment_ids = (tokens != pad_id).astype(jnp.int32)
  positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)
  positions = jnp.broadcast_to(positions, tokens.shape) * segment_ids
  return TextRows(tokens, segment_ids, positions)


def embed_rows(
  embed: Embed,
  rows: TextRows,
  rng: Array | None,
  *,
  rows_per_chunk: int | None = None,
) -> Float[Array, "rows segments dim"]:
  """Embeds rows with dropout that depends on the number of the row alone.

  Args:
    embed: embeds any number of rows.
    rows: the rows, over all devices.
    rng: decides dropout; None: there is none.
    rows_per_chunk: the most rows that are encoded at once, over all devices;
      None: all, and activations are kept for the backward pass.

  Raises:
    InputError: `rows_per_chunk` is no multiple of the groups of devices that
      share a batch.
  """
  num_rows = len(rows.tokens)
  if rows_per_chunk is None:
    return _embed_each(embed, rows, _make_keys(rng, num_rows))
  num_chunks, chunk_size = _choose_chunks(rows.tokens, rows_per_chunk)
  padded = num_chunks * chunk_size
  keys = _make_keys(rng, padded)
  chunks = jax.tree.map(
    lambda x: _split(x, num_chunks), (_pad(rows, padded), keys)
  )
  encode = jax.checkpoint(
    lambda chunk: _embed_each(embed, *chunk), prevent_cse=False
  )
  _, vectors = jax.lax.scan(
    lambda carry, chunk: (carry, encode(chunk)), None, chunks
  )
  # [chunks, rows in chunk, segments, dim] -> [rows, segments, dim]
  vectors = jnp.moveaxis(vectors, 0, 1)
  return vectors.reshape(padded, *vectors.shape[2:])[:num_rows]


def _choose_chunks(tokens: Array, rows_per_chunk: int) -> tuple[int, int]:
  """The number of chunks, and the least rows with which so many suffice."""
  num_groups = dict(jax.typeof(tokens).sharding.mesh.shape).get(DATA, 1)
  if rows_per_chunk < 1 or rows_per_chunk % num_groups:
    raise InputError(
      f"rows_per_chunk {rows_per_chunk} cannot be split over {num_groups} "
      "groups of devices",
      mend="choose a multiple",
    )
  num_chunks = -(-len(tokens) // rows_per_chunk)
  return num_chunks, num_groups * -(-len(tokens) // (num_chunks * num_groups))


def _make_keys(rng: Array | None, num_rows: int) -> Array | None:
  if rng is None:
    return None
  return jax.vmap(jax.random.fold_in, (None, 0))(rng, jnp.arange(num_rows))


def _embed_each(
  embed: Embed, rows: TextRows, keys: Array | None
) -> Float[Array, "rows segments dim"]:
  """Embeds each row by its own key; one program for all of them."""
  if keys is None:
    return embed(rows, None)

  def embed_one(row: TextRows, key: Array) -> Float[Array, "segments dim"]:
    return embed(TextRows(*(x[None] for x in row)), key)[0]

  return jax.vmap(embed_one, spmd_axis_name=DATA)(rows, keys)


def _pad(rows: TextRows, num_rows: int) -> TextRows:
  """Adds rows without texts."""
  missing = num_rows - len(rows.tokens)
  return TextRows(*(jnp.pad(x, ((0, missing), (0, 0))) for x in rows))


def _split(x: Array, num_chunks: int) -> Array:
  """Chunk c takes rows c, c + num_chunks, ...: of every device its share."""
  # [rows, ...] -> [in chunk, chunks, ...] -> [chunks, in chunk, ...]
  return jnp.moveaxis(x.reshape(-1, num_chunks, *x.shape[1:]), 1, 0)


def take_texts(
  vectors: Float[Array, "rows segments dim"], slots: Int[Array, " texts"]
) -> tuple[Float[Array, "texts dim"], Bool[Array, " texts"]]:
  """Brings the vectors of packed texts into the order of the texts.

  Args:
    vectors: of the segments of all rows.
    slots: of each text its segment, counted through all rows; -1 where there
      is no text.

  Returns:
    The vectors, zeros where there is no text, and where there is one.

  >>> vectors = jnp.arange(4.0).reshape(2, 2, 1)
  >>> found, is_text = take_texts(vectors, jnp.array([3, -1, 0]))
  >>> found[:, 0].tolist(), is_text.tolist()
  ([3.0, 0.0, 0.0], [True, False, True])
  """
  flat = vectors.reshape(-1, vectors.shape[-1])
  is_text = slots >= 0
  return jnp.where(is_text[:, None], flat[slots], 0.0), is_text
