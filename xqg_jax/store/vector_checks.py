"""Checks of vectors and queries: finite values, equal dimensions."""

import numpy as np
from jaxtyping import Float

from xqg_jax.errors import InputError


def check_vectors(
  vectors: Float[np.ndarray, "rows dim"], what: str, *, first_row: int = 0
) -> None:
  """Refuses vectors that could not be ranked.

  Args:
    vectors: the vectors.
    what: what one of them is called in the message.
    first_row: number of the first of them.

  Raises:
    InputError: a value that is NaN or infinite; the message names the row.

  >>> check_vectors(np.zeros((1, 2), np.float32), "query")
  >>> check_vectors(np.array([[0.0], [np.nan]]), "query", first_row=7)
  Traceback (most recent call last):
    ...
  xqg_jax.errors.InputError: query 8 holds NaN or infinity; encode it again
  """
  with np.errstate(invalid="ignore", over="ignore"):
    if np.isfinite(vectors.sum()):
      return
  is_good = np.isfinite(vectors).all(axis=1)
  if not is_good.all():
    row = first_row + int(np.argmin(is_good))
    raise InputError(
      f"{what} {row} holds NaN or infinity", mend="encode it again"
    )


def check_queries(
  queries: Float[np.ndarray, "queries query_dim"], *, dim: int, k: int
) -> None:
  """Refuses queries that cannot be searched with.

  Raises:
    InputError: no query, another dimension than the corpus, a value that is
      not finite, or a `k` below 1.
  """
  if k < 1:
    raise InputError(f"k is {k}", mend="ask for at least one neighbor")
  if not len(queries):
    raise InputError("no queries", mend="give at least one")
  if queries.shape[1] != dim:
    raise InputError(
      f"queries have {queries.shape[1]} dimensions, the corpus has {dim}",
      mend="encode both with the same dual encoder",
    )
  check_vectors(queries, "query")
