"""English passages by type of entity: templates of their sentences."""

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Date:
  """A full date between two years, or so many years `after` another one."""

  first: int
  last: int
  after: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Amount:
  """A number with its unit. The number of digits is the same throughout.

  Otherwise one amount could stand inside another ("12,481 metres").
  """

  low: int
  high: int
  unit: str


@dataclasses.dataclass(frozen=True, slots=True)
class InventedName:
  """An invented two-word name of a person or a place."""


@dataclasses.dataclass(frozen=True, slots=True)
class Attribute:
  """A fact about an entity: the kind of its value, and sentences to state it.

  The sentences hold `{value}`.
  """

  value: Date | Amount | InventedName
  sentences: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class EntityType:
  """A type of entity.

  Attributes:
    openings: first sentences; they hold `{name}` and `{place}`.
    attributes: by name, in the order in which values are drawn.
  """

  openings: tuple[str, ...]
  attributes: dict[str, Attribute]


def _named(*sentences: str) -> Attribute:
  return Attribute(InventedName(), sentences)


def _dated(
  first: int, last: int, *sentences: str, after: str | None = None
) -> Attribute:
  return Attribute(Date(first, last, after), sentences)


def _measured(low: int, high: int, unit: str, *sentences: str) -> Attribute:
  return Attribute(Amount(low, high, unit), sentences)


_PAINTER = EntityType(
  openings=(
    "{name} was a painter known for quiet views of {place}.",
    "{name} was a portrait painter who worked mostly in {place}.",
    "{name} was a painter and engraver of the {place} school.",
  ),
  attributes={
    "birth_date": _dated(
      1500,
      1880,
      "The artist was born on {value} into a poor family.",
      "His date of birth is recorded as {value}.",
      "Born on {value}, he began to draw as a child.",
    ),
    "birthplace": _named(
      "His birthplace was the fishing village of {value}.",
      "He was born in {value}, where his father sold cloth.",
      "The painter came from {value}, his native village.",
    ),
    "death_date": _dated(
      31,
      84,
      "The painter died of a fever on {value}.",
      "His death came suddenly on {value}.",
      "On {value} he died, leaving many works unfinished.",
      after="birth_date",
    ),
    "teacher": _named(
      "He learned to paint from his teacher {value}.",
      "As a young man he studied under {value}.",
      "His first teacher was {value}, a strict master.",
    ),
    "spouse": _named(
      "He married {value}, who often sat for him.",
      "His wife was {value}, a singer.",
      "The painter shared his studio with his wife {value}.",
    ),
    "burial_place": _named(
      "The artist is buried in {value}.",
      "His grave can still be seen in {value}.",
      "He was laid to rest in the churchyard of {value}.",
    ),
  },
)

_TOWN = EntityType(
  openings=(
    "{name} is a town in the {place} district.",
    "{name} is a small market town in the province of {place}.",
    "{name} is an old town at the edge of the {place} plain.",
  ),
  attributes={
    "founding_date": _dated(
      1200,
      1850,
      "The town was founded on {value}.",
      "Its foundation is dated to {value}, the day of its charter.",
      "Settlers founded it on {value} after a great flood.",
    ),
    "founder": _named(
      "Its founder was {value}, a wealthy trader.",
      "The town was founded by {value}.",
      "A statue honours {value}, who founded the town.",
    ),
    "population": _measured(
      10_000,
      99_999,
      "inhabitants",
      "It has {value}, most of them farmers.",
      "The last census counted {value}.",
      "The population stands at {value}.",
    ),
    "river": _named(
      "It lies on the river {value}.",
      "The river {value} flows through its old centre.",
      "Its houses stand along the banks of the river {value}.",
    ),
    "mayor": _named(
      "The current mayor is {value}, a former teacher.",
      "{value} has been elected mayor twice.",
      "Its mayor, {value}, lives above the bakery.",
    ),
    "elevation": _measured(
      1_000,
      4_999,
      "metres",
      "The main square lies at an elevation of {value}.",
      "It stands {value} above sea level.",
      "At {value} above the sea, its winters are long.",
    ),
  },
)

_RIVER = EntityType(
  openings=(
    "{name} is a river that crosses the {place} lowlands.",
    "{name} is a slow river in the south of {place}.",
    "{name} is one of the great rivers of {place}.",
  ),
  attributes={
    "length": _measured(
      1_000,
      4_999,
      "kilometres",
      "Its total length is {value}.",
      "The river is {value} long.",
      "It flows for {value} through forests and fields.",
    ),
    "source": _named(
      "The river rises on Mount {value}.",
      "Its source is a spring on Mount {value}.",
      "It begins high on the slopes of Mount {value}.",
    ),
    "mouth": _named(
      "It flows into Lake {value}.",
      "The river ends in a wide delta on Lake {value}.",
      "Its waters finally reach Lake {value}.",
    ),
    "largest_town": _named(
      "The largest town on its banks is {value}.",
      "{value} is the biggest town along the river.",
      "Of all the towns beside it, {value} is the largest.",
    ),
    "basin_area": _measured(
      10_000,
      99_999,
      "square kilometres",
      "The river drains an area of {value}.",
      "Its basin covers {value}.",
      "The drainage basin measures {value}.",
    ),
    "explorer": _named(
      "The explorer {value} drew the first map of it.",
      "It was first mapped by {value}.",
      "Its course was first charted by the explorer {value}.",
    ),
  },
)

_MOUNTAIN = EntityType(
  openings=(
    "{name} is a mountain on the border of {place}.",
    "{name} is a steep mountain in the west of {place}.",
    "{name} is a snowy mountain that looks down on {place}.",
  ),
  attributes={
    "height": _measured(
      1_000,
      8_999,
      "metres",
      "Its summit reaches a height of {value}.",
      "The mountain is {value} high.",
      "It rises to {value} above sea level.",
    ),
    "first_ascent": _dated(
      1780,
      1989,
      "The summit was first reached on {value}.",
      "Its first ascent took place on {value}.",
      "It was climbed for the first time on {value}.",
    ),
    "first_climber": _named(
      "The first person to stand on top was {value}.",
      "{value} was the first to climb it.",
      "The climber {value} led the first successful ascent.",
    ),
    "range": _named(
      "It belongs to the {value} range.",
      "The mountain is part of the {value} range.",
      "Geologists count it among the peaks of the {value} range.",
    ),
    "nearest_village": _named(
      "The nearest village is {value}.",
      "Most climbers set out from the nearby village of {value}.",
      "At its foot lies the village of {value}.",
    ),
    "namesake": _named(
      "The mountain is named after {value}, a geologist.",
      "It takes its name from the surveyor {value}.",
      "Its present name honours {value}, who measured it.",
    ),
  },
)

_COMPANY = EntityType(
  openings=(
    "{name} is a company that sells tools throughout {place}.",
    "{name} is a family company from the {place} region.",
    "{name} is a company best known for the {place} bicycle.",
  ),
  attributes={
    "founding_date": _dated(
      1800,
      1989,
      "The company was founded on {value}.",
      "It was established on {value} in a rented barn.",
      "The firm opened its first office on {value}.",
    ),
    "founder": _named(
      "It was founded by {value}, a locksmith.",
      "Its founder was the engineer {value}.",
      "The inventor {value} founded the firm.",
    ),
    "headquarters": _named(
      "Its headquarters are in {value}.",
      "The head office stands in {value}, near the station.",
      "The company has its headquarters in the city of {value}.",
    ),
    "employees": _measured(
      10_000,
      99_999,
      "employees",
      "The firm has {value} in several countries.",
      "Today it has {value}.",
      "The company reports a total of {value}.",
    ),
    "director": _named(
      "The present director is {value}.",
      "{value} has long been its director.",
      "It is led by its director {value}.",
    ),
    "factory": _named(
      "Its largest factory is in {value}.",
      "Most of its goods are made at a factory in {value}.",
      "The main factory of the firm is located in {value}.",
    ),
  },
)

_MUSEUM = EntityType(
  openings=(
    "{name} is a museum about the history of {place}.",
    "{name} is a museum of folk art from {place}.",
    "{name} is a natural history museum with fossils from {place}.",
  ),
  attributes={
    "opening_date": _dated(
      1820,
      1999,
      "The museum opened its doors on {value}.",
      "It was opened to the public on {value}.",
      "Its opening was celebrated on {value}.",
    ),
    "architect": _named(
      "The building was designed by {value}.",
      "Its architect was {value}.",
      "The architect {value} drew the plans of the building.",
    ),
    "collection_size": _measured(
      10_000,
      99_999,
      "objects",
      "Its collection holds {value}.",
      "The museum owns {value}, many of them rare.",
      "There are {value} in the collection.",
    ),
    "location": _named(
      "The museum is in the city of {value}.",
      "It stands in {value}, beside the river.",
      "Its home is the city of {value}.",
    ),
    "director": _named(
      "The director of the museum is {value}.",
      "It is directed by the historian {value}.",
      "{value} has been its director for ten years.",
    ),
    "visitors": _measured(
      100_000,
      999_999,
      "visitors",
      "It welcomes {value} a year.",
      "Each year the museum receives {value}.",
      "Last year it was seen by {value}.",
    ),
  },
)

_NOVEL = EntityType(
  openings=(
    "{name} is a novel about a long war over {place}.",
    "{name} is a historical novel on the fall of {place}.",
    "{name} is a novel that won the {place} prize.",
  ),
  attributes={
    "publication_date": _dated(
      1800,
      1999,
      "The book was published on {value}.",
      "It first appeared on {value}.",
      "The novel came out on {value} to great praise.",
    ),
    "author": _named(
      "The novel was written by {value}.",
      "Its author is {value}, a retired doctor.",
      "The writer {value} worked on it for nine years.",
    ),
    "hero": _named(
      "The main character is {value}, a young sailor.",
      "It tells the life of its hero {value}.",
      "At the centre of the story stands {value}.",
    ),
    "setting": _named(
      "The story is set in the town of {value}.",
      "Most of the action takes place in {value}.",
      "Its events unfold in {value}, a port.",
    ),
    "translator": _named(
      "The English translation is by {value}.",
      "It was translated into English by {value}.",
      "English readers know the version of its translator {value}.",
    ),
    "print_run": _measured(
      10_000,
      99_999,
      "copies",
      "The first edition ran to {value}.",
      "Its first printing of {value} sold out quickly.",
      "The publisher first printed {value}.",
    ),
  },
)

ENTITY_TYPES: dict[str, EntityType] = {
  "painter": _PAINTER,
  "town": _TOWN,
  "river": _RIVER,
  "mountain": _MOUNTAIN,
  "company": _COMPANY,
  "museum": _MUSEUM,
  "novel": _NOVEL,
}
