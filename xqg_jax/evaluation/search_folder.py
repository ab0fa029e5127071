"""The files that `search` writes: run, question vectors, manifest."""

import dataclasses
import os
from collections.abc import Sequence
from typing import NotRequired, TypedDict

import numpy as np
from jaxtyping import Float

from xqg_jax.augmentation.centering import (
  NO_CENTERING,
  Centering,
)
from xqg_jax.augmentation.language_means import (
  CenterBy,
  read_means,
)
from xqg_jax.errors import InputError
from xqg_jax.io.claims import MANIFEST_FILE
from xqg_jax.io.files import read_json, sha256_file
from xqg_jax.io.local_copies import copy_here
from xqg_jax.io.locations import find_location
from xqg_jax.io.paths import Path, to_path
from xqg_jax.io.typed_json import PathText, Versioned

FORMAT_VERSION = 1
RUN_FILE = "run.trec"
EMBEDDINGS_KEY = "question_embeddings"
EMBEDDINGS_FILE = f"{EMBEDDINGS_KEY}.npy"
RUN_KEY = "run"
CENTERING_KEY = "centering"
SEARCH_AGAIN = "search again with a new OUTPUT_DIR"


class CenteringRecord(TypedDict):
  """How the questions of a search were centred."""

  means: PathText
  means_fingerprint: str
  strength: float
  by: CenterBy


class SearchManifest(Versioned):
  """Contents of a search folder's `manifest.json`, as far as they are read.

  Folders of earlier versions lack the fingerprints and checksums.
  """

  index: NotRequired[PathText]
  embeddings: NotRequired[PathText | None]
  embeddings_fingerprint: NotRequired[str]
  run: NotRequired[str]
  question_embeddings: NotRequired[str]
  question_ids: NotRequired[list[str]]
  languages: NotRequired[list[str | None]]
  encoder_fingerprint: NotRequired[str]
  centering: NotRequired[CenteringRecord | None]


def find_run_file(path: str | os.PathLike) -> Path:
  """The file that holds the ranking: in a search folder, its `run.trec`.

  Raises:
    InputError: nothing there.
  """
  path = to_path(path)
  file = path / RUN_FILE if path.is_dir() else path
  if not file.is_file():
    raise InputError(
      "no such run", where=file, mend="give a search folder or a run file"
    )
  return file


def is_search_folder(path: str | os.PathLike) -> bool:
  """Whether a folder holds question vectors that `search` wrote."""
  return (to_path(path) / EMBEDDINGS_FILE).is_file()


def check_search_file(path: Path, manifest: SearchManifest, key: str) -> None:
  """Refuses a file of a search that has another checksum than was noted.

  Raises:
    InputError: it has.
  """
  if key in manifest and sha256_file(path) != manifest[key]:
    raise InputError(
      "not the file that the manifest describes", where=path, mend=SEARCH_AGAIN
    )


# ------------------------------------------------------------ question vectors


@dataclasses.dataclass(frozen=True)
class SearchedQuestions:
  """The questions of a search folder, and what was searched with.

  Attributes:
    folder: of the search.
    manifest: what it notes.
    vectors: of the questions, centred if they were searched so.
  """

  folder: Path
  manifest: SearchManifest
  vectors: Float[np.ndarray, "questions dim"]

  @property
  def question_ids(self) -> Sequence[str]:
    """Ids in the order of the vectors."""
    return self.manifest.get("question_ids", [])

  @property
  def languages(self) -> Sequence[str | None]:
    """Language of each question, where they are noted."""
    unknown = [None] * len(self.question_ids)
    return self.manifest.get("languages", unknown)

  @property
  def encoder_fingerprint(self) -> str | None:
    """Of the encoder of the vectors."""
    return self.manifest.get("encoder_fingerprint")

  def read_centering(self) -> Centering:
    """How the questions were centred; without strength if they were not.

    Raises:
      InputError: the means have changed since, or are gone.
    """
    noted = self.manifest.get(CENTERING_KEY)
    if noted is None:
      return NO_CENTERING
    place = find_location(noted["means"], self.folder)
    means = read_means(place)
    if means.fingerprint != noted["means_fingerprint"]:
      raise InputError(
        "not the means that the questions were centred by",
        where=place,
        mend=SEARCH_AGAIN,
      )
    return Centering(means, noted["strength"], noted["by"], place)

  def uncentered(self) -> Float[np.ndarray, "questions dim"]:
    """The vectors as the encoder made them, to rounding."""
    return self.read_centering().undo(self.vectors, self.languages)


def read_searched(folder: str | os.PathLike) -> SearchedQuestions:
  """Reads the questions of a search folder.

  Raises:
    InputError: not a folder that `search` wrote, or changed files.
  """
  folder = to_path(folder)
  manifest = read_json(folder / MANIFEST_FILE, SearchManifest)
  if not (manifest.get("embeddings") and "question_ids" in manifest):
    raise InputError(
      "the manifest does not name 'embeddings' and 'question_ids'",
      where=folder / MANIFEST_FILE,
      mend="give a folder that `xqg search` wrote",
    )
  return SearchedQuestions(folder, manifest, _read_vectors(folder, manifest))


def _read_vectors(
  folder: Path, manifest: SearchManifest
) -> Float[np.ndarray, "questions dim"]:
  path = folder / EMBEDDINGS_FILE
  try:
    vectors = np.load(copy_here(path), allow_pickle=False)
  except (OSError, ValueError) as error:
    raise InputError(
      f"cannot be read ({error})", where=path, mend=SEARCH_AGAIN
    ) from None
  question_ids = manifest.get("question_ids", [])
  if len(vectors) != len(question_ids):
    raise InputError(
      f"found {len(vectors)} vectors for {len(question_ids)} questions",
      where=path,
      mend=SEARCH_AGAIN,
    )
  check_search_file(path, manifest, EMBEDDINGS_KEY)
  return vectors
