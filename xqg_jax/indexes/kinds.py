"""Kinds of index: the table of them, and opening one from its folder.

A new kind is one file, with a subclass of `BuiltIndex`, and one line of
`KINDS`.
"""

import os
from collections.abc import Mapping

from xqg_jax.augmentation.centering import Centering, CenterSettings
from xqg_jax.errors import InputError
from xqg_jax.indexes.exact.index import ExactIndex
from xqg_jax.indexes.index import FORMAT_VERSION, BuiltIndex, Index
from xqg_jax.indexes.manifest import IndexManifest, UpdatedManifest
from xqg_jax.indexes.scann.kind import ScannShards
from xqg_jax.indexes.updated import UpdatedIndex
from xqg_jax.io.claims import MANIFEST_FILE
from xqg_jax.io.files import read_json
from xqg_jax.io.manifests import tell_of_damage
from xqg_jax.io.paths import to_path
from xqg_jax.io.typed_json import Versioned, check_json
from xqg_jax.models.dual_encoder.dual_encoder import DualEncoder
from xqg_jax.store.store import UNKNOWN_ENCODER

KINDS: Mapping[str, type[BuiltIndex]] = {
  "scann": ScannShards,
  "exact": ExactIndex,
}


def find_kind(name: str, *, where: object | None = None) -> type[BuiltIndex]:
  """The class behind the name of a kind.

  Raises:
    InputError: there is no such kind.
  """
  if name not in KINDS:
    known = " or ".join(f'"{kind}"' for kind in KINDS)
    raise InputError(
      f"unknown kind of index {name!r}", where=where, mend=f"use {known}"
    )
  return KINDS[name]


def open_index(path: str | os.PathLike) -> Index:
  """Opens an index: reads its manifest, and nothing else yet.

  Raises:
    InputError: no finished index there, one of another format, or one whose
      shards are not all its rows.
  """
  path = to_path(path)
  if not (path / MANIFEST_FILE).exists():
    raise InputError(
      "no finished index here (manifest.json is missing)",
      where=path,
      mend="check the path, or run the same index command again",
    )
  versioned = read_json(path / MANIFEST_FILE, Versioned)
  is_index = "embeddings_fingerprint" in versioned
  if not is_index or versioned.get("format_version") != FORMAT_VERSION:
    raise InputError(
      f"not an index of format version {FORMAT_VERSION}",
      where=path / MANIFEST_FILE,
      mend="build the index with this version and a new OUTPUT_DIR",
    )
  where = path / MANIFEST_FILE
  manifest = check_json(versioned, IndexManifest, where=where)
  kind = find_kind(manifest["kind"], where=where)
  if "base_fingerprint" in manifest:
    check_json(manifest, UpdatedManifest, where=where)
    return UpdatedIndex(path, manifest, open_index)
  return kind(path, manifest)


def is_sound_index(path: str | os.PathLike) -> bool:
  """Whether a finished index is there, with all files as they were written.

  What is damaged is told of on standard error.
  """
  if not (to_path(path) / MANIFEST_FILE).exists():
    return False
  try:
    open_index(path).verify()
  except InputError as error:
    tell_of_damage("index", error)
    return False
  return True


def check_encoder(index: Index, model: DualEncoder) -> None:
  """Refuses a dual encoder that did not make the index's vectors.

  Raises:
    InputError: its fingerprint is another.
  """
  if index.encoder_fingerprint == UNKNOWN_ENCODER:
    raise InputError(
      "the vectors were imported without the encoder that made them",
      where=index.path,
      mend="import them again with CHECKPOINT_PATH (and ENCODER), and index "
      "that store",
    )
  if model.fingerprint != index.encoder_fingerprint:
    raise InputError(
      "the index holds vectors of another encoder (its fingerprint is "
      f"{index.encoder_fingerprint[:12]}, the checkpoint's is "
      f"{model.fingerprint[:12]})",
      where=index.path,
      mend="give the checkpoint, pooling and prefixes of the passages",
    )


def open_centering(
  settings: CenterSettings, index: Index, model: DualEncoder
) -> Centering:
  """Reads the means that questions to an index are centred by.

  Raises:
    InputError: settings that cannot be, no means, or those of another encoder.
  """
  needs_store = settings.strength and settings.means is None
  return settings.open(
    store=index.open_embeddings().store.path if needs_store else None,
    encoder_fingerprint=model.fingerprint,
  )
