"""A grid of strengths of centring, for the questions of a search folder."""

import dataclasses
import os
from collections.abc import Mapping, Sequence

from xqg_jax.augmentation.centering import (
  Centering,
  CenterSettings,
)
from xqg_jax.augmentation.language_means import (
  CenterBy,
)
from xqg_jax.augmentation.settings import Augmentation
from xqg_jax.evaluation.search_folder import SearchedQuestions
from xqg_jax.evaluation.variants import (
  Variant,
  open_searched_embeddings,
  score_augmentations,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CenterGrid:
  """Strengths to try, and the means to subtract.

  Attributes:
    strengths: 0 to 2, such as (0, 0.8); none: questions as they were searched.
    by: "language", or "all" for the mean over all languages.
    means: folder that `xqg center` wrote, or a store with means; None: the
      store that was searched.
  """

  strengths: Sequence[float] = ()
  by: CenterBy = "language"
  means: str | os.PathLike | None = None

  def open(self, searched: SearchedQuestions) -> list[Centering]:
    """Reads the means, and checks that they fit the questions.

    Raises:
      InputError: a strength outside 0 to 2, no means, or those of another
        encoder.
    """
    store = None
    if any(self.strengths) and self.means is None:
      store = open_searched_embeddings(searched).store.path
    return [
      CenterSettings(strength=strength, by=self.by, means=self.means).open(
        store=store, encoder_fingerprint=searched.encoder_fingerprint
      )
      for strength in self.strengths
    ]


NO_GRID = CenterGrid()


def name_centered(name: str, centering: Centering) -> str:
  """The name of a variant with its questions centred.

  >>> name_centered("mean 0.2", Centering())
  'mean 0.2, centre 0'
  """
  end = " all" if centering.by == "all" else ""
  return f"{name}, centre {centering.strength:g}{end}"


def score_centered(
  searched: SearchedQuestions,
  augmentations: Mapping[str, Augmentation | None],
  centerings: Sequence[Centering],
  *,
  k: int,
) -> list[Variant]:
  """Searches with questions centred in several ways, under augmentations.

  Args:
    searched: the questions of a search folder.
    augmentations: by name; None: passages as they are.
    centerings: of the questions, one after the other.
    k: passages of each question.

  Returns:
    The variants, named "NAME, centre STRENGTH", centring by centring.
  """
  return [
    variant
    for centering in centerings
    for variant in score_augmentations(
      searched.folder,
      {name_centered(n, centering): a for n, a in augmentations.items()},
      k=k,
      centering=centering,
    )
  ]
