"""Variants: the runs that an evaluation compares, from folders or files.

A variant comes from a search folder, a TREC run file, an XOR-Retrieve
prediction file of any system, or from the embeddings and questions of a
search folder under another augmentation.
"""

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from xqg_jax.augmentation.centering import (
  Centering,
)
from xqg_jax.augmentation.settings import Augmentation, Reduction
from xqg_jax.augmentation.views import AugmentedView, open_view
from xqg_jax.data.passages import Passage, read_passages
from xqg_jax.data.predictions import read_predictions
from xqg_jax.data.questions import Question
from xqg_jax.data.runs import Run, make_run, read_run
from xqg_jax.errors import InputError
from xqg_jax.evaluation.search_folder import (
  CENTERING_KEY,
  RUN_KEY,
  SearchedQuestions,
  SearchManifest,
  check_search_file,
  find_run_file,
  read_searched,
)
from xqg_jax.indexes.exact.all_augmentations import score_variants
from xqg_jax.io.claims import MANIFEST_FILE
from xqg_jax.io.files import read_json, read_lines
from xqg_jax.io.locations import find_location
from xqg_jax.io.paths import Path, to_path

_TEXT_ID = "text:"


@dataclasses.dataclass(frozen=True)
class Variant:
  """One run under its name.

  Attributes:
    name: as tables show it.
    run: {question_id: {passage_id: score}}.
    path: the file it came from; None for a variant scored here.
    augmentation: how the passages were augmented, where that is known.
    centering: how the questions were centred, if they were.
    texts: the texts of a prediction file by the ids made for them.
    num_left_out: questions of its file that are not evaluated.
  """

  name: str
  run: Run
  path: Path | None = None
  augmentation: Augmentation | None = None
  centering: Mapping[str, Any] | None = None
  texts: Mapping[str, str] = dataclasses.field(default_factory=dict)
  num_left_out: int = 0


# --------------------------------------------------------------------- reading


def read_variant(name: str, path: str | os.PathLike) -> Variant:
  """Reads a search folder, a TREC run, or a prediction file (`.json`).

  Raises:
    InputError: missing or malformed; the message names file and line.
  """
  file = find_run_file(path)
  if file.suffix == ".json":
    return _read_prediction_variant(name, file)
  folder = to_path(path)
  manifest: SearchManifest = {}
  if (folder / MANIFEST_FILE).is_file():
    manifest = read_json(folder / MANIFEST_FILE, SearchManifest)
    check_search_file(file, manifest, RUN_KEY)
  augmentation = _read_augmentation(folder, manifest)
  centering = manifest.get(CENTERING_KEY)
  return Variant(name, read_run(file), file, augmentation, centering)


def _read_prediction_variant(name: str, path: Path) -> Variant:
  run: Run = {}
  texts: dict[str, str] = {}
  for prediction in read_predictions(path):
    scores = run.setdefault(prediction.question_id, {})
    for rank, text in enumerate(prediction.texts):
      text_id = _TEXT_ID + hashlib.sha256(text.encode()).hexdigest()[:24]
      texts[text_id] = text
      # A text that is given twice counts twice against the budget.
      while text_id in scores:
        text_id += "+"
        texts[text_id] = text
      scores[text_id] = -float(rank)
  return Variant(name, run, path, texts=texts)


def _read_augmentation(
  folder: Path, manifest: SearchManifest
) -> Augmentation | None:
  """None for a store, and for a view that is no longer there."""
  noted = manifest.get("embeddings")
  if not noted:
    return None
  if not to_path(find_location(noted, folder)).exists():
    return None
  return _open_embeddings(folder, manifest).augmentation


def open_searched_embeddings(searched: SearchedQuestions) -> AugmentedView:
  """Opens the embeddings that a search went through.

  Raises:
    InputError: they have changed since.
  """
  return _open_embeddings(searched.folder, searched.manifest)


def _open_embeddings(folder: Path, manifest: SearchManifest) -> AugmentedView:
  embeddings = manifest.get("embeddings")
  if embeddings is None:
    raise InputError(
      "names no embeddings", where=folder / MANIFEST_FILE, mend="search again"
    )
  location = find_location(embeddings, folder)
  view = open_view(location)
  # Folders of earlier versions do not note it.
  noted = manifest.get("embeddings_fingerprint", view.fingerprint)
  if view.fingerprint != noted:
    raise InputError(
      "the embeddings are not those that were searched",
      where=location,
      mend="search again with a new OUTPUT_DIR, or give its run.trec alone",
    )
  return view


# --------------------------------------------------- further augmentations


def plan_augmentations(
  alphas: Sequence[float] | Mapping[Reduction, Sequence[float]],
  reduction: Reduction,
  augmentations: Mapping[str, Augmentation] | Sequence[Augmentation],
  num_queries: Sequence[int] = (),
) -> dict[str, Augmentation]:
  """The augmentations to score, by the names they are shown under.

  Every alpha is tried with every number of queries a language.

  >>> list(plan_augmentations((0.1, 0.2), "mean", ()))
  ['mean 0.1', 'mean 0.2']
  >>> list(plan_augmentations({"sum": [0.01], "mean": [0.2]}, "sum", ()))
  ['sum 0.01', 'mean 0.2']
  >>> list(plan_augmentations((0.1,), "sum", (), (1, 3)))
  ['sum 0.1 1q', 'sum 0.1 3q']
  """
  by_reduction: Mapping[Reduction, Sequence[float]] = (
    alphas if isinstance(alphas, Mapping) else {reduction: alphas}
  )
  planned = [
    Augmentation(reduction=name, alpha=alpha, num_queries=number)
    for name, values in by_reduction.items()
    for alpha in values
    for number in num_queries or (None,)
  ]
  if isinstance(augmentations, Mapping):
    named = dict(augmentations)
  else:
    named = {}
    planned += augmentations
  return {describe_augmentation(a): a for a in planned} | named


def describe_augmentation(augmentation: Augmentation | None) -> str:
  """A short name of an augmentation.

  >>> describe_augmentation(
  ...   Augmentation(
  ...     reduction="sum", alpha=0.02, languages=("ar",), num_queries=3
  ...   )
  ... )
  'sum 0.02 ar 3q'
  """
  if augmentation is None:
    return "base"
  words = [augmentation.reduction, f"{augmentation.alpha:g}"]
  if augmentation.languages is not None:
    words.append("+".join(augmentation.languages))
  if augmentation.num_queries is not None:
    words.append(f"{augmentation.num_queries}q")
  words += [f"{code}x{w:g}" for code, w in augmentation.language_weights]
  if augmentation.remove_mean:
    words.append("centred")
  return " ".join(words)


def score_augmentations(
  search_folder: str | os.PathLike,
  augmentations: Mapping[str, Augmentation | None],
  *,
  k: int,
  centering: Centering | None = None,
) -> list[Variant]:
  """Searches the embeddings of a search folder under other augmentations.

  Exact search with the folder's own question embeddings; nothing is encoded
  again, and all augmentations are scored in one pass over the embeddings.

  Args:
    search_folder: a folder that `search` wrote.
    augmentations: by the names of the variants; None: passages as they are.
    k: number of passages for each question.
    centering: of the questions; None: as they were searched.

  Raises:
    InputError: the folder is not of a search, or the store lacks the query
      sums that are asked for.
  """
  searched = read_searched(search_folder)
  store = open_searched_embeddings(searched).store
  queries, noted = searched.vectors, searched.manifest.get(CENTERING_KEY)
  if centering is not None:
    queries = centering.apply(searched.uncentered(), searched.languages)
    noted = centering.to_json()
  neighbors = score_variants(queries, store, list(augmentations.values()), k)
  passage_ids = store.passage_ids
  return [
    Variant(
      name,
      make_run(searched.question_ids, passage_ids, *found),
      augmentation=augmentations[name],
      centering=noted,
    )
    for name, found in zip(augmentations, neighbors, strict=True)
  ]


# -------------------------------------------------------- passages and checks


def read_needed_passages(
  path: str | os.PathLike, variants: Iterable[Variant]
) -> tuple[dict[str, Passage], list[Variant]]:
  """Reads the passages that the variants name, and checks that all are there.

  Texts of prediction files that are a passage's text word for word take the
  passage's id; the others become passages of their own.

  Returns:
    (the passages by id, the variants).

  Raises:
    InputError: a run names a passage that the collection lacks.
  """
  variants = list(variants)
  wanted = {p for v in variants for scores in v.run.values() for p in scores}
  loose = {text for v in variants for text in v.texts.values()}
  passages: dict[str, Passage] = {}
  id_of_text: dict[str, str] = {}
  for passage in read_passages(path):
    if passage.passage_id in wanted:
      passages[passage.passage_id] = passage
    if passage.text in loose:
      id_of_text.setdefault(passage.text, passage.passage_id)
      passages[passage.passage_id] = passage
  variants = [_adopt_ids(v, id_of_text, passages) for v in variants]
  for variant in variants:
    _check_passages(variant, passages, path)
  return passages, variants


def _adopt_ids(
  variant: Variant,
  id_of_text: Mapping[str, str],
  passages: dict[str, Passage],
) -> Variant:
  if not variant.texts:
    return variant
  run: Run = {}
  for question_id, scores in variant.run.items():
    adopted = run.setdefault(question_id, {})
    for text_id, score in scores.items():
      text = variant.texts[text_id]
      known_id = id_of_text.get(text, text_id)
      passage_id = text_id if known_id in adopted else known_id
      passages.setdefault(passage_id, Passage(passage_id, text))
      adopted[passage_id] = score
  return dataclasses.replace(variant, run=run)


def count_loose_texts(variant: Variant) -> int:
  """Counts results of a prediction file that are not in the collection."""
  return sum(
    passage_id.startswith(_TEXT_ID)
    for scores in variant.run.values()
    for passage_id in scores
    if variant.texts
  )


def _check_passages(
  variant: Variant, passages: Mapping[str, Any], passages_path: object
) -> None:
  for question_id, scores in variant.run.items():
    for passage_id in scores:
      if passage_id not in passages:
        raise InputError(
          f"passage {passage_id!r} is not in {passages_path}",
          where=_locate(variant, question_id, passage_id),
          mend="give the passages that were searched",
        )


def keep_questions(
  variant: Variant, questions: Sequence[Question], questions_path: object
) -> Variant:
  """Keeps a variant's results for the questions that are evaluated.

  Raises:
    InputError: results, and none for these questions.
  """
  known = {question.question_id for question in questions}
  run = {key: found for key, found in variant.run.items() if key in known}
  if variant.run and not run:
    question_id = next(iter(variant.run))
    raise InputError(
      f"no result for a question of {questions_path} (the first is for "
      f"{question_id!r})",
      where=_locate(variant, question_id),
      mend="give the questions that were searched with, or some of them",
    )
  left_out = len(variant.run) - len(run)
  return dataclasses.replace(variant, run=run, num_left_out=left_out)


def list_unanswered(
  variant: Variant, questions: Sequence[Question]
) -> list[str]:
  """The ids of the questions that the variant has no results for."""
  ids = (question.question_id for question in questions)
  return [q for q in ids if not variant.run.get(q)]


def _locate(
  variant: Variant, question_id: str, passage_id: str | None = None
) -> object:
  """`file:line` of a result, looked up only for an error message."""
  path = variant.path
  if path is None or path.suffix == ".json":
    return path or f"variant {variant.name!r}"
  for where, line in read_lines(path):
    columns = line.split()
    if columns[:1] == [question_id] and passage_id in (None, columns[2]):
      return where
  return path
