"""Stage `augment`: query sums added to passage vectors, as a view."""

import dataclasses
import os
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from xqg_jax.augmentation.fusion import (
  group_weights,
)
from xqg_jax.augmentation.settings import Augmentation, Reduction
from xqg_jax.augmentation.views import (
  FORMAT_VERSION,
  VIEW_FILE,
  AugmentedView,
  materialize_vectors,
)
from xqg_jax.io.claims import claim_output_dir
from xqg_jax.io.files import write_json
from xqg_jax.io.locations import relate_location
from xqg_jax.io.typed_json import Positive, Share
from xqg_jax.store.store import EmbeddingStore, open_store


def augment(
  *,
  store: str | os.PathLike,
  output_dir: str | os.PathLike,
  reduction: Reduction = "sum",
  alpha: Share = 0.01,
  languages: Sequence[str] | None = None,
  num_queries: Positive | None = None,
  language_weights: Mapping[str, float] | None = None,
  remove_mean: bool = False,
  materialize: bool = False,
) -> AugmentedView:
  """Writes a view of a store; no vectors are copied unless asked for.

  Warns when passages differ in their number of queries and `reduction` is
  "sum".

  Args:
    store: folder of the embedding store.
    output_dir: folder of the view.
    reduction: "sum" or "mean".
    alpha: weight of the sum or the mean.
    languages: use these languages' queries only; needs a store encoded with
      `group_queries_by=("language",)`.
    num_queries: use the first so many a language; needs a store encoded with
      `group_queries_by=("rank",)`.
    language_weights: how much a query of a language counts, 1 if it is not
      named; needs what `languages` needs.
    remove_mean: subtract the mean vector of all passages from each, and that
      of all queries from each query.
    materialize: write a store of the augmented vectors instead of a view, for
      what reads plain vectors; an interrupted run goes on.

  Returns:
    The view, or the new store as one.

  Raises:
    InputError: no such store, one that lacks what is asked for, or an output
      folder that holds something else.
  """
  opened = open_store(store)
  augmentation = Augmentation(
    reduction=reduction,
    alpha=alpha,
    languages=None if languages is None else tuple(languages),
    num_queries=num_queries,
    language_weights=tuple(sorted((language_weights or {}).items())),
    remove_mean=remove_mean,
  )
  weights = group_weights(opened.groups, augmentation)
  if reduction == "sum" and not remove_mean:
    _warn_of_uneven_counts(opened, weights)
  settings = augmentation.to_json()
  arguments = {"store_fingerprint": opened.fingerprint, **settings}
  if materialize:
    arguments["materialize"] = True
  folder = claim_output_dir(output_dir, stage="augment", arguments=arguments)
  view = AugmentedView(opened, augmentation)
  if materialize:
    return AugmentedView(
      materialize_vectors(view.blocks, opened, folder, augmentation=settings)
    )
  content = {
    "format_version": FORMAT_VERSION,
    "store": relate_location(opened.path, folder),
    "store_fingerprint": opened.fingerprint,
    "augmentation": settings,
  }
  if view.means is not None:
    means = dataclasses.asdict(view.means)
    content["means"] = {name: mean.tolist() for name, mean in means.items()}
  write_json(folder / VIEW_FILE, content)
  return view


def _warn_of_uneven_counts(
  store: EmbeddingStore, weights: Float[np.ndarray, " groups"]
) -> None:
  counts = [c[:, weights != 0].sum(axis=1) for c in store.query_counts()]
  fewest = min(int(c.min()) for c in counts)
  most = max(int(c.max()) for c in counts)
  if fewest != most:
    warnings.warn(
      f"passages have {fewest} to {most} queries; a plain sum ranks passages "
      'by their number of queries; use reduction="mean"',
      stacklevel=3,
    )
