"""Stage `store center`: a store whose passages lose their language's offset.

For collections that mix languages: the mean vector of a language's passages,
less the mean of all, is what sets the languages apart.
"""

import os
import sys
from collections.abc import Iterator, Sequence

import numpy as np

from xqg_jax.augmentation.language_means import (
  LanguageMeans,
  check_strength,
  has_means,
  measure_means,
  merge_means,
  read_means,
)
from xqg_jax.data.passage_languages import (
  describe_languages,
  order_languages,
  read_passage_languages,
)
from xqg_jax.data.passages import list_passage_files
from xqg_jax.io.claims import claim_output_dir, lock_folder
from xqg_jax.io.files import describe_files
from xqg_jax.store.shards import ShardArrays, write_shards
from xqg_jax.store.store import (
  EmbeddingStore,
  open_sound_store,
  open_store,
  write_manifest,
)

_BLOCK_SIZE = 65_536


def center_store(
  *,
  store: str | os.PathLike,
  passages: str | os.PathLike,
  output_dir: str | os.PathLike,
  strength: float = 1.0,
  language_field: str | None = "lang",
  languages: Sequence[str] = (),
) -> EmbeddingStore:
  """Writes a store with `p - strength * (mean of its language - mean of all)`.

  Query sums, counts and the means of questions stay as they are, so that the
  new store can be augmented, indexed and searched like the old one.

  Args:
    store: folder of the embedding store.
    passages: that were encoded, with their languages.
    output_dir: folder of the new store; an interrupted run goes on.
    strength: how much of the offset goes, 0 to 2.
    language_field: of JSONL passages; None: languages are identified.
    languages: codes to choose among where they are identified.

  Returns:
    The new store.

  Raises:
    InputError: bad input (the message names file and line), a passage without
      a language, or an output folder that holds something else.
  """
  check_strength(strength)
  opened = open_store(store)
  by_id = read_passage_languages(
    passages, field=language_field, languages=languages
  )
  of_row = order_languages(by_id, opened.passage_ids, where=passages)
  settings = {
    "strength": strength,
    "language_field": language_field,
    "languages": list(languages),
    "passages": describe_files(list_passage_files(passages)),
  }
  folder = claim_output_dir(
    output_dir,
    stage="store center",
    arguments={"store_fingerprint": opened.fingerprint, **settings},
  )
  if (finished := open_sound_store(folder)) is not None:
    return finished
  print(f"passages centred: {describe_languages(of_row)}", file=sys.stderr)
  means = _measure(opened, of_row)
  with lock_folder(folder):
    if has_means(opened.path):  # of questions, which stay what they are
      read_means(opened.path).write(folder)
    records = write_shards(
      folder,
      lambda: _center(opened, of_row, means, strength),
      dtype=opened.manifest["dtype"],
      task="center",
      num_shards=-(-opened.num_passages // opened.shard_size),
      num_passages=opened.num_passages,
    )
    write_manifest(
      folder,
      shards=records,
      dim=opened.dim,
      dtype=opened.manifest["dtype"],
      encoder=opened.manifest["encoder"],
      groups=opened.groups,
      inputs={"store": opened.fingerprint, "center_passages": settings},
    )
  return open_store(folder)


def _measure(store: EmbeddingStore, of_row: Sequence[str]) -> LanguageMeans:
  return merge_means(
    [
      measure_means(
        block.passages, of_row[block.start : block.start + len(block.passages)]
      )
      for block in store.blocks(_BLOCK_SIZE, use_queries=False)
    ]
  )


def _center(
  store: EmbeddingStore,
  of_row: Sequence[str],
  means: LanguageMeans,
  strength: float,
) -> Iterator[ShardArrays]:
  """The arrays of each shard, of the same rows as the store's own."""
  ids = store.passage_ids
  for block in store.blocks(store.shard_size):
    rows = slice(block.start, block.start + len(block.passages))
    offsets = means.select(of_row[rows]) - means.overall
    centred = (block.passages - strength * offsets).astype(np.float32)
    yield ShardArrays(ids[rows], centred, block.query_sums, block.query_counts)
