"""Other ways to take language out of vectors, written from their papers.

LIR (Yang et al., EMNLP 2021, arXiv 2109.04727) projects the first principal
components of a language's vectors off them. SHIFT (arXiv 2606.18801) subtracts
the mean offset of a language from English, measured on parallel texts. Ren et
al. (ICML 2026, arXiv 2511.11041) take one mean of everything from both sides,
by subtraction or by projection.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

Vectors = Float[np.ndarray, "texts dim"]


def normalize(vectors: Vectors) -> Vectors:
  """Unit vectors."""
  lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
  return vectors / np.maximum(lengths, np.finfo(np.float32).tiny)


def find_components(
  vectors: Vectors, rank: int
) -> Float[np.ndarray, "rank dim"]:
  """The first right singular vectors, without centring, as LIR takes them."""
  return np.linalg.svd(vectors, full_matrices=False)[2][:rank]


def remove_components(
  vectors: Vectors, components: Float[np.ndarray, "rank dim"]
) -> Vectors:
  """Projects components off, which are orthonormal rows.

  >>> remove_components(np.array([[3.0, 4.0]]), np.array([[0.0, 1.0]]))
  array([[3., 0.]])
  """
  return vectors - (vectors @ components.T) @ components


def remove_language_components(
  vectors: Vectors,
  languages: Sequence[str],
  bank: Mapping[str, Vectors],
  *,
  rank: int,
) -> Vectors:
  """LIR: each vector without the components of its language's bank."""
  codes, found = np.asarray(languages), np.array(vectors)
  for language in set(languages):
    rows = codes == language
    components = find_components(bank[language], rank)
    found[rows] = remove_components(found[rows], components)
  return found


def measure_shifts(
  parallel: Mapping[str, Vectors], *, pivot: str = "en"
) -> dict[str, Float[np.ndarray, " dim"]]:
  """SHIFT: the mean offset of each language from the pivot's translations.

  Args:
    parallel: vectors by language, row by row of the same texts.
    pivot: the language that offsets are from.

  >>> measure_shifts({"en": np.zeros((2, 1)), "fi": np.array([[1.0], [3.0]])})
  {'en': array([0.]), 'fi': array([2.])}
  """
  return {
    language: (vectors - parallel[pivot]).mean(axis=0)
    for language, vectors in parallel.items()
  }


def remove_mean_of_all(
  questions: Vectors, passages: Vectors, sample: Vectors, *, project: bool
) -> tuple[Vectors, Vectors]:
  """Mean-bias correction: one mean of everything, taken from both sides.

  Args:
    questions: of any language.
    passages: to be searched.
    sample: what the mean is of.
    project: takes the mean's direction off instead of the mean.

  Returns:
    (questions, passages), unit vectors again.

  >>> found = remove_mean_of_all(
  ...   np.array([[1.0, 1.0]]),
  ...   np.array([[3.0, 1.0]]),
  ...   np.array([[2.0, 0.0]]),
  ...   project=True,
  ... )
  >>> found[0].tolist(), found[1].tolist()
  ([[0.0, 1.0]], [[0.0, 1.0]])
  """
  mean = sample.mean(axis=0)
  if project:
    direction = mean[None] / np.linalg.norm(mean)
    corrected = [remove_components(v, direction) for v in (questions, passages)]
  else:
    corrected = [questions - mean, passages - mean]
  return normalize(corrected[0]), normalize(corrected[1])
