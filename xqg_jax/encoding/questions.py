"""Questions to the vectors that are searched with, centred if so asked."""

import sys
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from xqg_jax.augmentation.centering import (
  NO_CENTERING,
  Centering,
)
from xqg_jax.augmentation.language_means import (
  describe_missing,
)
from xqg_jax.encoding.texts import encode_texts
from xqg_jax.models.dual_encoder.dual_encoder import DualEncoder


def encode_questions(
  encoder: DualEncoder,
  questions: Sequence[str],
  languages: Sequence[str | None],
  *,
  centering: Centering = NO_CENTERING,
) -> Float32[np.ndarray, "questions dim"]:
  """Embeds questions and subtracts what `centering` says.

  Questions in languages without a mean are counted on standard error.

  Args:
    encoder: the dual encoder.
    questions: their texts.
    languages: code of each; None where it is not known.
    centering: what to subtract; by default nothing.

  Raises:
    InputError: an embedding that is not finite, or means of another dimension.
  """
  vectors = encode_texts(
    encoder,
    [encoder.format_query(question) for question in questions],
    side="query",
    max_length=encoder.config.query_length,
  )
  if missing := centering.count_missing(languages):
    print(describe_missing(missing), file=sys.stderr)
  return centering.apply(vectors, languages)
