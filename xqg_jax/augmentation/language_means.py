"""Mean vectors of questions by language, measured, kept and subtracted.

On disk the means are one small file, `question_means.json`: languages, counts,
dimensions, the encoder's fingerprint, the means, and a checksum of it all.
"""

import collections
import dataclasses
import functools
import json
import math
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Float32, Float64, Int64

from xqg_jax.errors import InputError
from xqg_jax.io.files import fingerprint
from xqg_jax.io.locations import Location
from xqg_jax.io.typed_json import Count, Positive, Versioned, check_json
from xqg_jax.store.vector_checks import check_vectors

FORMAT_VERSION = 1
MEANS_FILE = "question_means.json"
MAX_STRENGTH = 2.0
_MEASURE_AGAIN = "run `xqg center` again with a new OUTPUT_DIR"
OTHER_ENCODER = "run `xqg center` with the encoder of the questions"

CenterBy = Literal["language", "all"]


# ------------------------------------------------------------------- measuring


def measure_means(
  vectors: Float[np.ndarray, "texts dim"],
  languages: Sequence[str],
  *,
  encoder_fingerprint: str | None = None,
) -> "LanguageMeans":
  """The mean vector of each language, in float64.

  Args:
    vectors: of questions, generated queries or passages.
    languages: code of each.
    encoder_fingerprint: of the encoder that made the vectors, if known.

  Raises:
    InputError: no vectors, not one a language, or one that is not finite.

  >>> found = measure_means(
  ...   np.array([[1.0, 0.0], [3.0, 0.0], [0.0, 8.0]]), ["fi", "fi", "ko"]
  ... )
  >>> found.means.tolist()
  [[2.0, 0.0], [0.0, 8.0]]
  """
  _check_languages(vectors, languages)
  check_vectors(vectors, "question")
  of_row = np.asarray(languages)
  sums = {
    language: vectors[of_row == language].sum(axis=0, dtype=np.float64)
    for language in set(languages)
  }
  return make_means(sums, collections.Counter(languages), encoder_fingerprint)


def make_means(
  sums: Mapping[str, Float[np.ndarray, " dim"]],
  counts: Mapping[str, int],
  encoder_fingerprint: str | None,
) -> "LanguageMeans":
  """Means of sums; languages in the order of their codes.

  Args:
    sums: of the vectors of each language.
    counts: how many vectors are in each sum; languages with none are left out.
    encoder_fingerprint: of the encoder that made the vectors, if known.

  Raises:
    InputError: there are no vectors, or a sum is not finite.
  """
  languages = tuple(name for name in sorted(sums) if counts[name])
  if not languages:
    raise InputError("no questions to take means of", mend="give some")
  of_each = np.array([counts[name] for name in languages], np.int64)
  stacked = np.stack([np.asarray(sums[name], np.float64) for name in languages])
  return LanguageMeans(
    languages, stacked / of_each[:, None], of_each, encoder_fingerprint
  )


def merge_means(parts: Sequence["LanguageMeans"]) -> "LanguageMeans":
  """The means of all the vectors that several means were taken of.

  Raises:
    InputError: no parts.

  >>> first = measure_means(np.array([[1.0], [3.0]]), ["fi", "fi"])
  >>> merge_means([first, measure_means(np.array([[8.0]]), ["fi"])]).means
  array([[4.]])
  """
  sums: dict[str, Any] = {}
  counts: collections.Counter[str] = collections.Counter()
  for part in parts:
    for language, mean, count in zip(
      part.languages, part.means, part.counts.tolist(), strict=True
    ):
      sums[language] = sums.get(language, 0.0) + count * mean
      counts[language] += count
  fingerprint_of = parts[0].encoder_fingerprint if parts else None
  return make_means(sums, counts, fingerprint_of)


def _check_languages(
  vectors: np.ndarray, languages: Sequence[str | None]
) -> None:
  if len(vectors) != len(languages):
    raise InputError(
      f"{len(languages)} languages for {len(vectors)} vectors",
      mend="give the language of each vector",
    )


# ----------------------------------------------------------------------- means


@dataclasses.dataclass(frozen=True, eq=False)
class LanguageMeans:
  """Mean vectors of texts by language.

  Attributes:
    languages: codes, in order.
    means: one a language.
    counts: how many vectors each is the mean of.
    encoder_fingerprint: of the encoder that made the vectors; None: unknown.
  """

  languages: tuple[str, ...]
  means: Float64[np.ndarray, "languages dim"]
  counts: Int64[np.ndarray, " languages"]
  encoder_fingerprint: str | None = None

  def __post_init__(self):
    check_vectors(self.means, "mean")

  @property
  def dim(self) -> int:
    """Dimensions of a vector."""
    return self.means.shape[1]

  @functools.cached_property
  def overall(self) -> Float64[np.ndarray, " dim"]:
    """Mean of all vectors of all languages."""
    return self.counts @ self.means / self.counts.sum()

  @functools.cached_property
  def fingerprint(self) -> str:
    """SHA-256 of the means and what they are of."""
    return fingerprint(self._describe())

  def select(
    self, languages: Sequence[str | None], *, by: CenterBy = "language"
  ) -> Float64[np.ndarray, "texts dim"]:
    """What a full centring subtracts from a vector of each language.

    Args:
      languages: code of each vector; the mean over all stands in for those
        without a mean of their own, and for None.
      by: "all" takes the mean over all for every vector.
    """
    table = np.concatenate([self.means, self.overall[None]])
    row_of = {} if by == "all" else self._rows
    return table[[row_of.get(name, -1) for name in languages]]

  @functools.cached_property
  def _rows(self) -> dict[str | None, int]:
    return {name: row for row, name in enumerate(self.languages)}

  def count_missing(self, languages: Iterable[str | None]) -> dict[str, int]:
    """How many vectors are of languages without a mean, by language.

    >>> means = measure_means(np.ones((1, 2)), ["fi"])
    >>> means.count_missing(["fi", "sw", "sw", None])
    {'sw': 2, 'unknown': 1}
    """
    missing = (name for name in languages if name not in self._rows)
    return dict(collections.Counter(name or "unknown" for name in missing))

  def apply(
    self,
    vectors: npt.ArrayLike,
    languages: Sequence[str | None] | None = None,
    *,
    strength: float = 1.0,
    by: CenterBy = "language",
  ) -> Float32[np.ndarray, "texts dim"]:
    """Vectors without their language's mean.

    Args:
      vectors: [texts, dim], from the encoder that the means are of.
      languages: code of each; None: the mean over all, for every vector.
      strength: how much of the mean goes, 0 to 2.
      by: "all" takes the mean over all for every vector.

    Raises:
      InputError: a strength outside 0 to 2, vectors of another dimension or
        not finite, or not one language a vector.

    >>> means = measure_means(np.array([[1.0, 0.0], [0.0, 4.0]]), ["fi", "ko"])
    >>> means.apply(np.ones((2, 2)), ["fi", "ko"], strength=0.5)
    array([[ 0.5,  1. ],
           [ 1. , -1. ]], dtype=float32)
    """
    check_strength(strength)
    vectors = np.asarray(vectors, np.float32)
    if vectors.ndim != 2:
      raise InputError(
        f"vectors of shape {vectors.shape}", mend="give an array of rows"
      )
    if languages is None:
      languages, by = [None] * len(vectors), "all"
    if by == "language" and (missing := self.count_missing(languages)):
      warnings.warn(describe_missing(missing), stacklevel=2)
    return self.add(vectors, languages, factor=-strength, by=by)

  def add(
    self,
    vectors: Float[np.ndarray, "texts dim"],
    languages: Sequence[str | None],
    *,
    factor: float,
    by: CenterBy = "language",
  ) -> Float32[np.ndarray, "texts dim"]:
    """Vectors with `factor` times their language's mean added to them.

    Args:
      vectors: of questions.
      languages: code of each; None where it is not known.
      factor: below 0 to subtract.
      by: "all" takes the mean over all for every vector.

    Raises:
      InputError: vectors of another dimension or not finite, or not one
        language a vector.
    """
    _check_languages(vectors, languages)
    if vectors.shape[1] != self.dim:
      raise InputError(
        f"questions have {vectors.shape[1]} dimensions, the means have "
        f"{self.dim}",
        mend=OTHER_ENCODER,
      )
    check_vectors(vectors, "question")
    offsets = self.select(languages, by=by)
    return (vectors + factor * offsets).astype(np.float32)

  def write(self, folder: str | os.PathLike) -> None:
    """Writes the means into a folder, on disk or in a bucket."""
    self.write_file(Location.of(folder) / MEANS_FILE)

  def write_file(self, place: Location) -> None:
    """Writes the means to a file of any name."""
    content = {**self._describe(), "checksum": self.fingerprint}
    text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    place.write_bytes(f"{text}\n".encode())

  def _describe(self) -> dict[str, Any]:
    return {
      "format_version": FORMAT_VERSION,
      "encoder_fingerprint": self.encoder_fingerprint,
      "dim": self.dim,
      "languages": list(self.languages),
      "counts": self.counts.tolist(),
      "means": self.means.tolist(),
    }


class MeansFile(Versioned):
  """Contents of the file of means."""

  encoder_fingerprint: str | None
  dim: Positive
  languages: list[str]
  counts: list[Count]
  means: list[list[float]]
  checksum: str


def describe_missing(missing: Mapping[str, int]) -> str:
  """A line on questions whose language has no mean.

  >>> describe_missing({"sw": 2, "unknown": 1}).partition(";")[0]
  'questions without a mean of their language: sw 2, unknown 1'
  """
  counts = ", ".join(f"{name} {count:,}" for name, count in missing.items())
  return (
    f"questions without a mean of their language: {counts}; the mean over all "
    "languages is subtracted from them"
  )


def has_means(folder: str | os.PathLike) -> bool:
  """Whether there are means in a folder, or in a store."""
  return (Location.of(folder) / MEANS_FILE).read_bytes() is not None


def describe_means(means: LanguageMeans) -> str:
  """A line on what means are of.

  >>> describe_means(measure_means(np.ones((3, 2)), ["fi", "fi", "ko"]))
  'means of 3 questions in 2 languages: fi 2, ko 1'
  """
  counts = zip(means.languages, means.counts.tolist(), strict=True)
  return (
    f"means of {means.counts.sum():,} questions in {len(means.languages)} "
    f"languages: {', '.join(f'{name} {count:,}' for name, count in counts)}"
  )


def read_means(folder: str | os.PathLike) -> LanguageMeans:
  """Reads and verifies the means in a folder that holds them, as a store may.

  Raises:
    InputError: no means there, of another format, or changed since.
  """
  return read_means_file(Location.of(folder) / MEANS_FILE)


def read_means_file(place: Location) -> LanguageMeans:
  """Does what `read_means` does, with a file of any name."""
  content = place.read_json(Versioned)
  if content is None:
    raise InputError(
      "no such file", where=place, mend="make means with `xqg center`"
    )
  if content.get("format_version") != FORMAT_VERSION:
    raise InputError(
      f"not means of format version {FORMAT_VERSION}",
      where=place,
      mend=_MEASURE_AGAIN,
    )
  check_json(content, MeansFile, where=place)
  checksum = content.pop("checksum")
  if fingerprint(content) != checksum:
    raise InputError(
      "differs from its checksum", where=place, mend=_MEASURE_AGAIN
    )
  return LanguageMeans(
    tuple(content["languages"]),
    np.array(content["means"], np.float64),
    np.array(content["counts"], np.int64),
    content["encoder_fingerprint"],
  )


def check_strength(strength: float) -> None:
  """Refuses a strength outside 0 to 2.

  Raises:
    InputError: it is outside, or no number.
  """
  if not (math.isfinite(strength) and 0 <= strength <= MAX_STRENGTH):
    raise InputError(
      f"the strength of centring is {strength}", mend="choose 0 to 2"
    )
