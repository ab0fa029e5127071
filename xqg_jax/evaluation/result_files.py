"""Schemas of an evaluation's files: metrics, scores, examples, manifest."""

from typing import Annotated, Any, NotRequired, TypedDict

import msgspec

from xqg_jax.augmentation.settings import AugmentationRecord
from xqg_jax.io.typed_json import Count, PathText, Positive


class Cell(TypedDict):
  """A value in percent, over how many questions, and how it compares."""

  value: float
  n: Count
  difference: NotRequired[float]
  interval: NotRequired[tuple[float, float]]
  p: NotRequired[float]
  p_holm: NotRequired[float]
  sd: NotRequired[float]
  seeds: NotRequired[list[float]]
  difference_seeds: NotRequired[list[float]]


class Measured(TypedDict):
  """One measure of one variant."""

  macro: Cell
  languages: dict[str, Cell]


class VariantRecord(TypedDict):
  """One variant: what it is, and what was measured."""

  augmentation: AugmentationRecord | None
  missing_questions: Count
  measures: dict[str, Measured]


class MeasureRecord(TypedDict):
  """A measure's name, and how it is shown."""

  name: str
  label: str


class SettingsRecord(TypedDict):
  """Of the settings of an evaluation those that are read back."""

  rounds: Positive


class Metrics(TypedDict):
  """Contents of `metrics.json`."""

  baseline: str
  languages: list[str]
  num_questions: Count
  settings: SettingsRecord
  notes: list[str]
  measures: Annotated[list[MeasureRecord], msgspec.Meta(min_length=1)]
  variants: dict[str, VariantRecord]
  relevance: str
  pooled: NotRequired[list[str]]


class ScoreRow(TypedDict):
  """A line of `per_question.jsonl`."""

  id: str
  lang: str
  values: Annotated[dict[str, list[float | None]], msgspec.Meta(min_length=1)]


class ExamplePassage(TypedDict):
  """A passage beside a question."""

  id: str
  title: str
  text: str
  has_answer: bool


class Example(TypedDict):
  """A question that a variant wins or loses."""

  id: str
  language: str
  question: str
  answers: list[str]
  values: tuple[float, float]
  passages: tuple[list[ExamplePassage], list[ExamplePassage]]


class Examples(TypedDict, total=False):
  """Contents of `examples.json`; empty where nothing was compared."""

  variant: str
  baseline: str
  measure: str
  won: list[Example]
  lost: list[Example]


class Source(TypedDict):
  """An input by path and checksum."""

  path: PathText
  sha256: str


class Inputs(TypedDict):
  """What an evaluation was made from."""

  questions: Source
  runs: dict[str, Source]


class PooledEvaluation(TypedDict):
  """One of the evaluations that were pooled."""

  path: PathText
  inputs: Inputs


class PooledInputs(TypedDict):
  """What a pooled evaluation was made from."""

  evaluations: Annotated[list[PooledEvaluation], msgspec.Meta(min_length=1)]


class EvaluationManifest(TypedDict):
  """Contents of an evaluation's `manifest.json`, pooled or not."""

  stage: str
  inputs: dict[str, Any]
  searches: NotRequired[dict[str, Any]]
  files: dict[PathText, str]
