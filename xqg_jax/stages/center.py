"""Stage `center`: mean vectors of questions by language.

question_means.json   the means, with counts, encoder and checksum
parts/00000.json      means of the texts that were encoded together, until all
                      are there; an interrupted run goes on at the first that
                      is missing or damaged
"""

import dataclasses
import functools
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
import tqdm

from xqg_jax.augmentation.language_means import (
  LanguageMeans,
  describe_means,
  has_means,
  measure_means,
  merge_means,
  read_means,
  read_means_file,
)
from xqg_jax.checkpoints import load_dual_encoder
from xqg_jax.data.languages import get_languages
from xqg_jax.data.question_bank import list_bank_files, read_bank
from xqg_jax.encoding.questions import encode_questions
from xqg_jax.errors import InputError
from xqg_jax.evaluation.search_folder import (
  SearchedQuestions,
  is_search_folder,
  read_searched,
)
from xqg_jax.io.claims import MANIFEST_FILE
from xqg_jax.io.files import describe_files, fingerprint, sha256_file
from xqg_jax.io.locations import Location
from xqg_jax.io.paths import to_path
from xqg_jax.io.shard_job import (
  Record,
  ShardJob,
  Turn,
  cut_stream,
  run_shards,
)
from xqg_jax.io.shared_claims import claim_together
from xqg_jax.models.dual_encoder.config import DualEncoderConfig
from xqg_jax.models.dual_encoder.dual_encoder import DualEncoder
from xqg_jax.runtime.processes import is_first_process

_PARTS_DIR = "parts"
# Texts that are encoded, and whose means are kept, together.
_PART_SIZE = 16_384

Queries = Mapping[str, Sequence[str]] | str | os.PathLike | None
_Text = tuple[str, str]


def center(
  encoder: Any,
  queries: Queries = None,
  *,
  config: DualEncoderConfig | None = None,
  output_dir: str | os.PathLike | None = None,
) -> LanguageMeans:
  """Takes the mean vector of each language's questions.

  What it returns centres questions: `means.apply(vectors, languages)`. Several
  processes (`--distributed`) each encode their own parts of the texts.

  Args:
    encoder: path of a dual encoder, or one that is loaded; a model of
      sentence-transformers, or a function from a list of texts to their
      vectors; None where the queries are vectors already.
    queries: texts by language; a JSONL file of questions or of generated
      queries, or a folder of the latter; a folder that `search` wrote, whose
      vectors are taken; None: the everyday questions that are shipped.
    config: pooling, prefixes and lengths of a dual encoder given by its path;
      the checkpoint's own when absent.
    output_dir: folder to write; None: nothing is written. An interrupted run
      goes on, a finished one is read.

  Raises:
    InputError: bad input (the message names file and line), vectors that are
      not finite, or an output folder that holds something else.
  """
  if isinstance(encoder, str | os.PathLike):
    encoder = load_dual_encoder(encoder, config=config)
  if output_dir is None:
    return _take_means(encoder, queries, parts=None)
  folder = Location.of(output_dir)
  arguments = {
    "encoder_fingerprint": getattr(encoder, "fingerprint", None),
    "queries": _describe(queries),
  }
  with claim_together(folder, stage="center", arguments=arguments):
    if not has_means(folder):
      means = _take_means(encoder, queries, parts=folder / _PARTS_DIR)
      if is_first_process():
        means.write(folder)
        (folder / _PARTS_DIR).delete()
  means = read_means(folder)
  if is_first_process():
    print(describe_means(means), file=sys.stderr)
  return means


def _describe(queries: Queries) -> Any:
  """What decides the means, for the claim of an output folder."""
  if isinstance(queries, Mapping):
    return fingerprint({name: list(texts) for name, texts in queries.items()})
  if _holds_vectors(queries):
    return sha256_file(to_path(queries) / MANIFEST_FILE)
  return describe_files(list_bank_files(queries))


def _holds_vectors(queries: Queries) -> TypeGuard[str | os.PathLike]:
  is_path = isinstance(queries, str | os.PathLike)
  return is_path and is_search_folder(queries)


def _take_means(
  encoder: Any, queries: Queries, *, parts: Location | None
) -> LanguageMeans:
  if _holds_vectors(queries):
    return _measure_searched(read_searched(queries))
  if encoder is None:
    raise InputError("no encoder for the questions", mend="set CHECKPOINT_PATH")
  if parts is None:
    chunks = cut_stream(_read_texts(queries), _PART_SIZE)
    return merge_means([_measure(encoder, list(chunk)) for chunk in chunks])
  job = _CenterJob(folder=parts, encoder=encoder, queries=queries)
  records = run_shards(job, turn=Turn.of_this_process())
  return merge_means([read_means_file(parts / r["name"]) for r in records])


def _measure_searched(searched: SearchedQuestions) -> LanguageMeans:
  languages = [name for name in searched.languages if name is not None]
  if len(languages) < len(searched.vectors):
    raise InputError(
      "does not note the languages of its questions",
      where=searched.folder / MANIFEST_FILE,
      mend="search again with a new OUTPUT_DIR",
    )
  return measure_means(
    searched.uncentered(),
    languages,
    encoder_fingerprint=searched.encoder_fingerprint,
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _CenterJob(ShardJob[list[_Text], list[_Text], LanguageMeans]):
  """Means of the texts, part by part."""

  folder: Location
  encoder: Any
  queries: Queries
  task: str = "center"
  unit: str = "questions"

  @functools.cached_property
  def total(self) -> int:
    """Texts of all processes."""
    return sum(1 for _ in _read_texts(self.queries))

  @property
  def num_shards(self) -> int:
    """Parts of all processes."""
    return -(-self.total // _PART_SIZE)

  def name_shard(self, index: int) -> str:
    return f"{index:05d}.json"

  def read(self) -> Iterator[list[_Text]]:
    return map(list, cut_stream(_read_texts(self.queries), _PART_SIZE))

  def make(self, work: list[_Text], bar: tqdm.tqdm) -> LanguageMeans:
    del bar
    return _measure(self.encoder, work)

  def write(self, place: Location, made: LanguageMeans) -> Record:
    made.write_file(place)
    return {"rows": int(made.counts.sum())}


def _measure(encoder: Any, texts: Sequence[_Text]) -> LanguageMeans:
  languages, questions = zip(*texts, strict=True)
  vectors = _embed(encoder, list(questions), languages)
  if vectors.ndim != 2 or len(vectors) != len(questions):
    raise InputError(
      f"the encoder made an array of shape {vectors.shape} of "
      f"{len(questions)} texts",
      mend="give one that makes a vector of each text",
    )
  return measure_means(
    vectors,
    languages,
    encoder_fingerprint=getattr(encoder, "fingerprint", None),
  )


def _embed(
  encoder: Any, questions: list[str], languages: Sequence[str]
) -> np.ndarray:
  """Vectors by a dual encoder, by sentence-transformers, or by a function."""
  if isinstance(encoder, DualEncoder):
    return encode_questions(encoder, questions, languages)
  # Models of sentence-transformers know how they encode queries.
  encode = getattr(encoder, "encode_query", None)
  encode = encode or getattr(encoder, "encode", encoder)
  return np.asarray(encode(questions), np.float32)


def _read_texts(queries: Queries) -> Iterator[_Text]:
  """Yields (language, text)."""
  if not isinstance(queries, Mapping):
    yield from read_bank(queries)
    return
  for language in get_languages(queries):
    for text in queries[language.code]:
      yield language.code, text
