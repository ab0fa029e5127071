"""Generator of an invented collection, in XOR-TyDi and DPR form."""

import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypedDict, TypeVar

from xqg_jax.data.languages import XOR_TYDI_LANGUAGES
from xqg_jax.data.passages import Passage, write_passages
from xqg_jax.data.questions import Question, write_questions
from xqg_jax.data.training_pairs import TrainingPair, write_training_pairs
from xqg_jax.errors import InputError
from xqg_jax.io.claims import MANIFEST_FILE, claim_output_dir, lock_folder
from xqg_jax.io.files import atomic_path, sha256_file, write_json
from xqg_jax.io.manifests import read_sound_manifest
from xqg_jax.io.paths import Path
from xqg_jax.io.progress import Progress
from xqg_jax.io.typed_json import Count
from xqg_jax.xor_mini.draws import Draws, Permutation
from xqg_jax.xor_mini.entities import Entities, Entity

MIN_PASSAGES, MAX_PASSAGES = 200, 1_000_000
NUM_NEGATIVES = 3
# As many labels as XOR-TyDi has: more would hide what augmentation gives.
MAX_DEFAULT_TRAIN_QUESTIONS = 15_000

# Part of what a folder claims: raised whenever the bytes written change.
_VERSION = 1

T = TypeVar("T")


def iter_passages(num_passages: int, seed: int = 0) -> Iterator[Passage]:
  """Streams the passages of a collection without writing anything.

  A smaller collection of the same seed is the beginning of a larger one.

  Args:
    num_passages: from 200 to 1,000,000.
    seed: of all random choices.

  Yields:
    Passages with the ids "1", "2", and so on.

  Raises:
    InputError: `num_passages` out of range.

  >>> next(iter_passages(200)).passage_id
  '1'
  """
  _check_num_passages(num_passages)
  entities = Entities(seed)
  return (entities[number].passage for number in range(num_passages))


def make_xor_mini(
  *,
  output_dir: str | os.PathLike,
  num_passages: int = 3000,
  seed: int = 0,
  num_train_questions: int | None = None,
  num_dev_questions_per_language: int = 200,
  languages: Sequence[str] = XOR_TYDI_LANGUAGES,
) -> dict[str, Any]:
  """Writes a synthetic cross-lingual retrieval collection.

  English passages about invented entities; questions in other languages, in
  whose scripts the entity's name is transliterated. Seven of ten entities are
  for training; about the others no question is asked in training, nor is
  their passage a positive or a negative one there.

  Writes `passages.tsv` (DPR), `train_pairs.jsonl` (Tevatron, with `lang` and
  `answers`), `questions_train.jsonl` and `questions_dev.jsonl` (XOR-TyDi),
  `qrels_dev.tsv` (TREC) and `manifest.json`. The bytes depend on nothing but
  the arguments. Called again, it goes on where it was interrupted, or returns
  at once.

  Args:
    output_dir: folder to write to; must be new or hold the same run.
    num_passages: from 200 to 1,000,000; one entity each.
    seed: of all random choices.
    num_train_questions: each about one training entity in one random
      language; at most one per training entity and language. By default one
      per training entity, at most 15,000.
    num_dev_questions_per_language: at most; there is no more than one per
      dev entity and language.
    languages: some of `XOR_TYDI_LANGUAGES`.

  Returns:
    What `manifest.json` says: counts, arguments, and SHA-256 of each file.

  Raises:
    InputError: an argument out of range, or a folder that holds another run.
  """
  collection = Collection(
    num_passages,
    seed,
    languages=languages,
    num_train_questions=num_train_questions,
    num_dev_questions_per_language=num_dev_questions_per_language,
  )
  folder = claim_output_dir(
    output_dir, stage="prepare", arguments=collection.arguments
  )
  manifest = read_sound_manifest(
    folder, _Manifest, task="prepare", list_files=lambda m: m["sha256"]
  )
  if manifest is not None:
    return manifest
  with lock_folder(folder):
    for name, write in _list_files(collection).items():
      _write_once(folder / name, write)
    manifest = _make_manifest(folder, collection)
    write_json(folder / MANIFEST_FILE, manifest)
  return manifest


class _Manifest(TypedDict):
  """Contents of `manifest.json`, besides the arguments."""

  num_train_entities: Count
  num_dev_entities: Count
  num_dev_questions: Count
  sha256: dict[str, str]


class Collection:
  """A collection as a set of streams; nothing is kept in memory.

  Attributes:
    num_train_entities: entities asked about in training.
    num_dev_entities: the others.
    num_train_questions: as asked for, or the default.
    num_dev_questions: of all languages together.
    arguments: what decides every byte.
  """

  def __init__(
    self,
    num_passages: int,
    seed: int,
    *,
    languages: Sequence[str],
    num_train_questions: int | None,
    num_dev_questions_per_language: int,
  ):
    _check_num_passages(num_passages)
    self.languages = _check_languages(languages)
    self.num_passages = num_passages
    self.num_train_entities = num_passages * 7 // 10
    self.num_dev_entities = num_passages - self.num_train_entities
    self.num_train_questions = _check_num_train_questions(
      num_train_questions, self.num_train_entities, len(self.languages)
    )
    self._num_dev_per_language = _check_num_dev_questions(
      num_dev_questions_per_language, self.num_dev_entities
    )
    self.num_dev_questions = self._num_dev_per_language * len(self.languages)
    self.arguments: dict[str, Any] = {
      "collection": "xor_mini",
      "version": _VERSION,
      "num_passages": num_passages,
      "seed": seed,
      "num_train_questions": self.num_train_questions,
      "num_dev_questions_per_language": num_dev_questions_per_language,
      "languages": list(self.languages),
    }
    self._seed = seed
    self._entities = Entities(seed)
    # Ranks below num_train_entities are for training, the others for dev.
    self._by_rank = Permutation(num_passages, seed, "split")

  def passages(self) -> Iterator[Passage]:
    """All passages, training and dev entities mixed at random."""
    for number in range(self.num_passages):
      yield self._entities[number].passage

  def train_questions(self) -> Iterator[tuple[Question, Entity]]:
    """Training questions with the entity that each asks about."""
    for index in range(self.num_train_questions):
      turn, rank = divmod(index, self.num_train_entities)
      entity = self._entities[self._by_rank(rank)]
      draws = Draws(self._seed, "train", entity.number)
      # The same shuffle at every turn, so that no pair comes twice.
      pairs = draws.shuffled(
        [(a, code) for a in entity.answers for code in self.languages]
      )
      question_id = f"train-{index + 1:07d}"
      yield _ask(entity, *pairs[turn], "train", question_id, draws), entity

  def dev_questions(self) -> Iterator[tuple[Question, Entity]]:
    """Dev questions, language after language, with their entities."""
    for code in self.languages:
      shuffle = Permutation(self.num_dev_entities, self._seed, "dev", code)
      for index in range(self._num_dev_per_language):
        rank = self.num_train_entities + shuffle(index)
        entity = self._entities[self._by_rank(rank)]
        draws = Draws(self._seed, "dev", code, entity.number)
        attribute = draws.choice(list(entity.answers))
        question_id = f"dev-{code}-{index + 1:06d}"
        yield _ask(entity, attribute, code, "dev", question_id, draws), entity

  def train_pairs(self) -> Iterator[TrainingPair]:
    """Training questions with a positive and three negative passages."""
    for question, entity in self.train_questions():
      yield TrainingPair(
        query_id=question.question_id,
        query=question.question,
        language=question.language,
        positives=(entity.passage,),
        negatives=self._draw_negatives(question),
        answers=question.answers,
      )

  def _draw_negatives(self, question: Question) -> tuple[Passage, ...]:
    """Passages of training entities in which no answer stands."""
    draws = Draws(self._seed, "negatives", question.question_id)
    negatives: dict[int, Passage] = {}
    while len(negatives) < NUM_NEGATIVES:
      number = self._by_rank(draws.below(self.num_train_entities))
      passage = self._entities[number].passage
      if not any(a in passage.text for a in question.answers):
        negatives[number] = passage
    return tuple(negatives.values())


def _ask(
  entity: Entity,
  attribute: str,
  language: str,
  split: str,
  question_id: str,
  draws: Draws,
) -> Question:
  return Question(
    question_id=question_id,
    question=entity.ask(attribute, language, draws),
    language=language,
    answers=(entity.answers[attribute],),
    split=split,
  )


# --------------------------------------------------------------------- checks


def _check_num_passages(num_passages: int) -> None:
  if not MIN_PASSAGES <= num_passages <= MAX_PASSAGES:
    raise InputError(
      f"num_passages is {num_passages}",
      mend=f"choose from {MIN_PASSAGES} to {MAX_PASSAGES:,}",
    )


def _check_languages(languages: Sequence[str]) -> tuple[str, ...]:
  languages = tuple(languages)
  unknown = [code for code in languages if code not in XOR_TYDI_LANGUAGES]
  if unknown or not languages or len(set(languages)) < len(languages):
    raise InputError(
      f"languages are {', '.join(map(repr, languages)) or 'none'}",
      mend="choose some of " + ", ".join(XOR_TYDI_LANGUAGES) + ", each once",
    )
  return languages


def _check_num_train_questions(
  count: int | None, num_entities: int, num_languages: int
) -> int:
  if count is None:
    return min(num_entities, MAX_DEFAULT_TRAIN_QUESTIONS)
  most = num_entities * num_languages
  if not 1 <= count <= most:
    raise InputError(
      f"num_train_questions is {count}",
      mend=f"choose from 1 to {most:,}, one per training entity and language",
    )
  return count


def _check_num_dev_questions(count: int, num_entities: int) -> int:
  if count < 1:
    raise InputError(
      f"num_dev_questions_per_language is {count}", mend="choose at least 1"
    )
  return min(count, num_entities)


# ---------------------------------------------------------------------- files


def _list_files(
  collection: Collection,
) -> dict[str, Callable[[io.TextIOBase], object]]:
  """For each file the function that writes it."""
  num_train = collection.num_train_questions
  num_dev = collection.num_dev_questions

  def show_passages():
    rows = collection.passages()
    return _show_progress(rows, collection.num_passages, "passages")

  def show_pairs():
    return _show_progress(collection.train_pairs(), num_train, "train pairs")

  def show_train():
    rows = collection.train_questions()
    return _show_progress(rows, num_train, "train questions")

  def show_dev(name="dev questions"):
    return _show_progress(collection.dev_questions(), num_dev, name)

  def only_questions(rows):
    return (question for question, _ in rows)

  return {
    "passages.tsv": lambda file: write_passages(file, show_passages()),
    "train_pairs.jsonl": lambda file: write_training_pairs(file, show_pairs()),
    "questions_train.jsonl": lambda file: write_questions(
      file, only_questions(show_train())
    ),
    "questions_dev.jsonl": lambda file: write_questions(
      file, only_questions(show_dev())
    ),
    "qrels_dev.tsv": lambda file: _write_qrels(file, show_dev("dev qrels")),
  }


def _show_progress(rows: Iterable[T], total: int, unit: str) -> Iterator[T]:
  yield from Progress(
    rows, total=total, desc=unit, unit=" rows", unit_scale=True
  )


def _write_qrels(
  file: io.TextIOBase, judged: Iterable[tuple[Question, Entity]]
) -> None:
  """Writes TREC relevance judgements: question id, 0, passage id, 1."""
  for question, entity in judged:
    file.write(f"{question.question_id}\t0\t{entity.passage.passage_id}\t1\n")


def _write_once(path: Path, write: Callable[[io.TextIOBase], object]) -> None:
  """Writes a file atomically, unless an interrupted run left it finished."""
  if path.exists():
    return
  with atomic_path(path) as partial:
    with open(partial, "w", encoding="utf-8", newline="\n") as file:
      write(file)


def _make_manifest(folder: Path, collection: Collection) -> dict[str, Any]:
  return {
    **collection.arguments,
    "num_train_entities": collection.num_train_entities,
    "num_dev_entities": collection.num_dev_entities,
    "num_dev_questions": collection.num_dev_questions,
    "sha256": {n: sha256_file(folder / n) for n in _list_files(collection)},
  }
