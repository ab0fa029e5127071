"""Stage `search --query`: passages for one question, in the terminal."""

import os
import shutil
import sys

from xqg_jax.augmentation.centering import (
  NOT_CENTERED,
  CenterSettings,
)
from xqg_jax.augmentation.settings import Reduction
from xqg_jax.data.languages import get_language
from xqg_jax.data.passage_lookup import read_shown_passages
from xqg_jax.io.typed_json import Positive, Share
from xqg_jax.models.dual_encoder.config import DualEncoderConfig
from xqg_jax.serving.live_search import LiveSearch
from xqg_jax.serving.products import rank_passages
from xqg_jax.serving.questions import check_numbers, check_question
from xqg_jax.serving.terminal import format_variants


def ask(
  *,
  query: str,
  index: str | os.PathLike,
  checkpoint_path: str | os.PathLike,
  passages: str | os.PathLike,
  encoder: DualEncoderConfig | None = None,
  baseline_index: str | os.PathLike | None = None,
  reduction: Reduction = "sum",
  alpha: Share | None = None,
  k: Positive = 5,
  language: str | None = None,
  centering: CenterSettings = NOT_CENTERED,
) -> None:
  """Prints the passages found for one question; writes no files.

  The passages as they are stand beside the augmented ones, or above them in a
  narrow terminal.

  Args:
    query: a question in any language.
    index: folder that `index` wrote.
    checkpoint_path: the dual encoder that also encoded the passages.
    passages: the collection, for titles and texts.
    encoder: pooling, prefixes and lengths; the checkpoint's own when absent.
    baseline_index: index of the store as it is, beside a ScaNN index.
    reduction: "sum" or "mean", where the index is not of a view.
    alpha: weight of the generated queries; the view's own when absent.
    k: passages of each variant.
    language: code of the question's language, for the mean to subtract; it is
      identified when absent, if the extra `langid` is installed.
    centering: how much of its language's mean is subtracted from the question.

  Raises:
    InputError: a bad question or language, an index of another encoder or
      store, or one with changed files.
    ScannError: ScaNN failed or crashed.
  """
  question = check_question(query)
  check_numbers(alpha=alpha, k=k)
  if language is not None:
    language = get_language(language).code
  with LiveSearch(
    index=index,
    checkpoint_path=checkpoint_path,
    encoder=encoder,
    baseline_index=baseline_index,
    reduction=reduction,
    alpha=0.01 if alpha is None else alpha,
    centering=centering,
    warm_up=False,
  ) as live:
    (products,) = live.find([question], [language])
    products = products.center(centering.strength)
    ids = live.passage_ids
    found = {"baseline": rank_passages(products, alpha=None, k=k)}
    if live.augmentation is not None:
      weight = live.augmentation.alpha if alpha is None else alpha
      name = f"augmented, {live.augmentation.reduction}, alpha {weight:g}"
      found[name] = rank_passages(products, alpha=weight, k=k)
  shown = read_shown_passages(
    {ids[hit.row] for hits in found.values() for hit in hits},
    passages=passages,
  )
  if centering.strength:
    named = products.language or "all languages"
    print(f"centred by the mean of {named}", file=sys.stderr)
  width = shutil.get_terminal_size().columns
  sys.stdout.writelines(
    f"{line}\n" for line in format_variants(found, ids, shown, width=width)
  )


# ------------------------------------------------------------------- printing
