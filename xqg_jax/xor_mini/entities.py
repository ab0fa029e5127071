"""Invented entities: for each number a name, facts, a passage, questions."""

import dataclasses

from xqg_jax.data.passages import Passage
from xqg_jax.xor_mini.draws import Draws
from xqg_jax.xor_mini.names import (
  NUM_NAMES,
  Name,
  Names,
  transliterate,
)
from xqg_jax.xor_mini.templates import (
  ENTITY_TYPES,
  QUESTIONS,
  EntityType,
)
from xqg_jax.xor_mini.templates.en import Amount, Attribute, Date

MAX_PASSAGE_WORDS = 60

# Each entity owns a block of names: its own, a place, and its facts' names.
_NAMES_PER_ENTITY = 16
NUM_ENTITIES = NUM_NAMES // _NAMES_PER_ENTITY

_TYPE_NAMES = tuple(ENTITY_TYPES)
_MONTHS = (
  "January February March April May June July August September October "
  "November December"
).split()
_DAYS = 28  # every month has them


@dataclasses.dataclass(frozen=True, slots=True)
class Entity:
  """One invented entity.

  Attributes:
    number: its position in the collection.
    type_name: a key of `ENTITY_TYPES`.
    name: its name, to be spelled in any script.
    passage: the English passage about it; the title is its name.
    answers: the facts that the passage states, by attribute; each stands
      literally in the passage, and names stand in no other one.
  """

  number: int
  type_name: str
  name: Name
  passage: Passage
  answers: dict[str, str]

  def ask(self, attribute: str, language: str, draws: Draws) -> str:
    """A question about one attribute, phrased at random."""
    phrasings = QUESTIONS[language][self.type_name][attribute]
    return draws.choice(phrasings).format(
      name=transliterate(self.name, language)
    )


class Entities:
  """All `NUM_ENTITIES` entities of a seed, each made when asked for.

  Entity i is the same in every collection of the seed, whatever its size.
  """

  def __init__(self, seed: int):
    self.seed = seed
    self._names = Names(seed)

  def __getitem__(self, number: int) -> Entity:
    draws = Draws(self.seed, "entity", number)
    type_name = draws.choice(_TYPE_NAMES)
    first_name = number * _NAMES_PER_ENTITY
    text, answers = self._write_passage(
      ENTITY_TYPES[type_name], first_name, draws
    )
    name = self._names[first_name]
    title = self._names.spell(first_name)
    passage = Passage(str(number + 1), text, title)
    return Entity(number, type_name, name, passage, answers)

  def _write_passage(
    self, entity_type: EntityType, first_name: int, draws: Draws
  ) -> tuple[str, dict[str, str]]:
    """Sentences in random order, as many as fit, and the facts they state."""
    values = self._draw_values(entity_type, first_name + 2, draws)
    opening = draws.choice(entity_type.openings).format(
      name=self._names.spell(first_name),
      place=self._names.spell(first_name + 1),
    )
    sentences, answers = [opening], {}
    room = MAX_PASSAGE_WORDS - len(opening.split())
    for name in draws.shuffled(list(values)):
      phrasings = entity_type.attributes[name].sentences
      sentence = draws.choice(phrasings).format(value=values[name])
      num_words = len(sentence.split())
      if num_words <= room:
        sentences.append(sentence)
        answers[name] = values[name]
        room -= num_words
    return " ".join(sentences), answers

  def _draw_values(
    self, entity_type: EntityType, first_name: int, draws: Draws
  ) -> dict[str, str]:
    values: dict[str, str] = {}
    for offset, (name, attribute) in enumerate(entity_type.attributes.items()):
      drawn = _draw_value(attribute, values, draws)
      values[name] = drawn or self._names.spell(first_name + offset)
    return values


def _draw_value(
  attribute: Attribute, earlier: dict[str, str], draws: Draws
) -> str | None:
  """A date or an amount; None for an invented name."""
  match attribute.value:
    case Amount(low, high, unit):
      return f"{draws.between(low, high):,} {unit}"
    case Date(first, last, after):
      year = draws.between(first, last)
      if after is not None:
        year += int(earlier[after].split()[-1])
      month = draws.choice(_MONTHS)
      return f"{draws.between(1, _DAYS)} {month} {year}"
  return None
