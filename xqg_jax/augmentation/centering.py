"""Centred questions: how much of their language's mean is subtracted.

A multilingual encoder gives every question a constant of its language. In an
inner product that constant favours some passages, whatever is asked; the mean
of a few dozen questions of the language is that constant.
"""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32

from xqg_jax.augmentation.language_means import (
  OTHER_ENCODER,
  CenterBy,
  LanguageMeans,
  check_strength,
  read_means,
)
from xqg_jax.errors import InputError
from xqg_jax.io.locations import Location


@dataclasses.dataclass(frozen=True)
class Centering:
  """What is subtracted from questions before they are searched with.

  Attributes:
    means: of questions by language; None only where the strength is 0.
    strength: how much of the mean goes, 0 to 2; 0 leaves questions alone.
    by: "language" takes each question's own mean, "all" the mean over all.
    path: folder of the means, if they were read from one.
  """

  means: LanguageMeans | None = None
  strength: float = 0.0
  by: CenterBy = "language"
  path: Location | None = None

  def __post_init__(self):
    check_strength(self.strength)
    if self.by not in ("language", "all"):
      raise InputError(
        f"questions cannot be centred by {self.by!r}",
        mend='use "language" or "all"',
      )
    if self.strength:
      self._get_means()

  def _get_means(self) -> LanguageMeans:
    """The means, which are there where the strength is not 0."""
    if self.means is None:
      raise InputError(
        "no means to centre questions by",
        mend="make them with `xqg center` and set CENTER_MEANS",
      )
    return self.means

  def apply(
    self,
    vectors: Float32[np.ndarray, "questions dim"],
    languages: Sequence[str | None],
  ) -> Float32[np.ndarray, "questions dim"]:
    """The vectors to search with; the same array where the strength is 0.

    Args:
      vectors: of questions.
      languages: code of each; None where it is not known.

    Raises:
      InputError: vectors of another dimension than the means, not finite, or
        not one language a vector.
    """
    if not self.strength:
      return vectors
    return self._get_means().add(
      vectors, languages, factor=-self.strength, by=self.by
    )

  def undo(
    self,
    vectors: Float32[np.ndarray, "questions dim"],
    languages: Sequence[str | None],
  ) -> Float32[np.ndarray, "questions dim"]:
    """The vectors that `apply` was given, to rounding."""
    if not self.strength:
      return vectors
    return self._get_means().add(
      vectors, languages, factor=self.strength, by=self.by
    )

  def count_missing(self, languages: Iterable[str | None]) -> dict[str, int]:
    """Questions that fall back to the mean over all, by language."""
    if not self.strength or self.by == "all":
      return {}
    return self._get_means().count_missing(languages)

  def to_json(self) -> dict[str, Any] | None:
    """Its settings, the means by fingerprint; None where it does nothing."""
    if not self.strength:
      return None
    return {
      "strength": self.strength,
      "by": self.by,
      "means_fingerprint": self._get_means().fingerprint,
    }


NO_CENTERING = Centering()


@dataclasses.dataclass(frozen=True, kw_only=True)
class CenterSettings:
  """How questions are to be centred, before any means are read.

  Attributes:
    strength: how much of the mean goes, 0 to 2; 0 leaves questions alone.
    by: "language", or "all" for the mean over all languages.
    means: folder that `xqg center` wrote, or a store with means; None: the
      store that is searched.
  """

  strength: float = 0.0
  by: CenterBy = "language"
  means: str | os.PathLike | None = None

  def open(
    self,
    *,
    store: str | os.PathLike | None,
    encoder_fingerprint: str | None,
  ) -> Centering:
    """Reads the means, if there is a strength.

    Args:
      store: folder of the store that is searched.
      encoder_fingerprint: of the encoder of the questions, if known.

    Raises:
      InputError: a strength or a `by` that cannot be, no means, or those of
        another encoder.
    """
    Centering(None, 0.0, self.by)
    check_strength(self.strength)
    folder = store if self.means is None else self.means
    if not self.strength or folder is None:
      return Centering(None, self.strength, self.by)
    means = open_means(folder, encoder_fingerprint=encoder_fingerprint)
    return Centering(means, self.strength, self.by, Location.of(folder))


NOT_CENTERED = CenterSettings()


def open_means(
  folder: str | os.PathLike,
  *,
  encoder_fingerprint: str | None,
  dim: int | None = None,
) -> LanguageMeans:
  """Reads means of the vectors of an encoder.

  Args:
    folder: that holds them.
    encoder_fingerprint: of the encoder of the questions, if known.
    dim: of the questions, if known.

  Raises:
    InputError: no means there, changed ones, or those of another encoder.
  """
  means = read_means(folder)
  found = means.encoder_fingerprint
  if found and encoder_fingerprint and found != encoder_fingerprint:
    raise InputError(
      f"the means are of another encoder (its fingerprint is {found[:12]}, "
      f"that of the questions' is {encoder_fingerprint[:12]})",
      where=folder,
      mend=OTHER_ENCODER,
    )
  if dim is not None and dim != means.dim:
    raise InputError(
      f"questions have {dim} dimensions, the means have {means.dim}",
      where=folder,
      mend=OTHER_ENCODER,
    )
  return means
