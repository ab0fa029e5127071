"""Schemas of an index's manifest: what every kind has, shards, updates."""

from typing import Any, NotRequired, TypedDict

from xqg_jax.io.typed_json import Count, PathText, Positive, Versioned


class IndexManifest(Versioned):
  """What the `manifest.json` of every index holds; a kind has more."""

  kind: str
  num_passages: Count
  dim: Positive
  embeddings: PathText
  embeddings_fingerprint: str
  encoder_fingerprint: str
  passage_ids: str
  notes: list[str]
  measured: NotRequired[dict[str, Any]]


class IndexPart(TypedDict):
  """One of the shards of an index; a kind notes more of it."""

  name: PathText
  start: Count
  rows: Count


class IndexParts(TypedDict):
  """All of the shards; a kind has its own."""

  shards: list[IndexPart]


# By the names of the files, which are no names of Python's.
UpdatedFiles = TypedDict(
  "UpdatedFiles",
  {"base_rows.npy": str, "fresh.npy": str, "fresh_rows.npy": str},
)


class UpdatedManifest(IndexManifest):
  """The manifest of an index that was updated."""

  base_index: PathText
  base_fingerprint: str
  files: UpdatedFiles
