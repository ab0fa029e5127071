"""Index of passages: what every kind has, and what a kind has to write.

manifest.json     kind, embeddings, parameters, measured recall and speed
passage_ids.txt   one id a line, in order of rows

What else lies there is told by the file of the kind.
"""

import abc
import dataclasses
import functools
from typing import Any, ClassVar, TypeVar

import numpy as np
from jaxtyping import Float

from xqg_jax.augmentation.views import AugmentedView, open_view
from xqg_jax.errors import InputError
from xqg_jax.indexes.exact.search import EXACT, ExactSettings
from xqg_jax.indexes.manifest import IndexManifest
from xqg_jax.indexes.neighbors import Neighbors
from xqg_jax.indexes.settings import IndexWishes
from xqg_jax.io.files import check_file, fingerprint
from xqg_jax.io.locations import Location, find_location
from xqg_jax.io.paths import Path
from xqg_jax.store.shards import IDS_FILE

FORMAT_VERSION = 1
BUILD_AGAIN = "run the same index command again to mend it"

_Opened = TypeVar("_Opened")


@dataclasses.dataclass(frozen=True)
class Index(abc.ABC):
  """A finished index, opened lazily; a context manager.

  Attributes:
    path: its folder.
    manifest: contents of `manifest.json`.
    is_exact: whether it scores all passages, so that nothing can be missed.
  """

  is_exact: ClassVar[bool]

  path: Path
  manifest: IndexManifest

  @property
  def kind(self) -> str:
    """How it searches, by the name that `KINDS` has for it."""
    return self.manifest["kind"]

  @property
  def dim(self) -> int:
    """Dimensions of a vector."""
    return self.manifest["dim"]

  @property
  def num_passages(self) -> int:
    """Number of passages."""
    return self.manifest["num_passages"]

  @property
  def encoder_fingerprint(self) -> str:
    """Fingerprint of the dual encoder that made the vectors."""
    return self.manifest["encoder_fingerprint"]

  @functools.cached_property
  def fingerprint(self) -> str:
    """SHA-256 of what decides results; not of where it lies or how fast."""
    apart = ("embeddings", "measured", "base_index")
    return fingerprint(
      {name: v for name, v in self.manifest.items() if name not in apart}
    )

  @property
  def embeddings(self) -> Location:
    """The store or view that was indexed."""
    return find_location(self.manifest["embeddings"], self.path)

  @functools.cached_property
  def passage_ids(self) -> list[str]:
    """The passages' ids in order of rows, checked against the manifest.

    Raises:
      InputError: the file is missing or was changed.
    """
    path = self.path / IDS_FILE
    Index.verify(self)
    return path.read_text(encoding="utf-8").split("\n")[:-1]

  def verify(self) -> None:
    """Compares all of its files with their checksums.

    Raises:
      InputError: a file is missing or was changed; the message names it.
    """
    check_file(
      self.path / IDS_FILE, self.manifest["passage_ids"], mend=BUILD_AGAIN
    )

  def open_embeddings(self) -> AugmentedView:
    """Opens the store or view that was indexed.

    Raises:
      InputError: it is gone, or another one lies there.
    """
    view = open_view(self.embeddings)
    if view.fingerprint != self.manifest["embeddings_fingerprint"]:
      raise InputError(
        "the embeddings are not those that were indexed",
        where=self.embeddings,
        mend="index them with a new OUTPUT_DIR",
      )
    return view

  @abc.abstractmethod
  def search(
    self,
    queries: Float[np.ndarray, "queries query_dim"],
    k: int,
    *,
    settings: ExactSettings = EXACT,
    across_processes: bool = False,
  ) -> Neighbors:
    """Finds the k nearest passages of each query.

    Args:
      queries: query embeddings, float32.
      k: how many; as many as there are passages when that is less.
      settings: of what is searched exactly.
      across_processes: as for `search_exact`; shards are shared, too.

    Returns:
      (scores, rows int32) [queries, k]; row -1 where nothing was found.

    Raises:
      InputError: bad queries, or an index whose files were changed.
      NativeError: native code failed or crashed.
    """

  def close(self) -> None:  # noqa: B027 - most kinds keep nothing open
    """Ends the processes that searches started, if there are any."""

  def __enter__(self: _Opened) -> _Opened:
    return self

  def __exit__(self, *exception: object) -> None:
    self.close()


class BuiltIndex(Index):
  """An index of a kind in `KINDS`: it knows how one is built.

  Attributes:
    shown_name: as messages call it.
    min_passages: fewer are searched exactly instead.
  """

  shown_name: ClassVar[str]
  min_passages: ClassVar[int] = 0

  @staticmethod
  @abc.abstractmethod
  def check(wishes: IndexWishes, num_passages: int) -> None:
    """Refuses wishes, before anything is written.

    Raises:
      InputError: they do not suit so many passages.
    """

  @staticmethod
  @abc.abstractmethod
  def build(
    folder: Path,
    view: AugmentedView,
    wishes: IndexWishes,
    queries: Float[np.ndarray, "queries dim"] | None,
  ) -> dict[str, Any]:
    """Writes its files; returns what the manifest tells of them.

    Args:
      folder: where to; may hold parts of an interrupted run.
      view: the vectors.
      wishes: what the user asked for.
      queries: question vectors to tune with, half of them, and to measure
        with; None: passages moved by noise.
    """
