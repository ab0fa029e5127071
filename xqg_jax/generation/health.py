"""Health checks of a query generator: empty, repeated, copied queries."""

import itertools
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Annotated, Any, TypedDict

import msgspec

from xqg_jax.data.languages import get_language, is_in_script
from xqg_jax.data.passages import Passage
from xqg_jax.io.typed_json import Count

# Of each sign, the share of queries from which on a generator is unwell.
LIMITS = {
  "empty": 0.2,
  "duplicate": 0.9,
  "sentinel": 0.05,
  "copy": 0.5,
  "wrong_script": 0.5,
  "unfinished": 0.6,
}
SIGNS = tuple(LIMITS)
# Fewer queries with a sign say nothing.
_FEWEST = 5
# Lengths in characters are counted in ranges that begin with these.
_LENGTHS = (0, 8, 16, 32, 64, 128)
LENGTHS = (
  *(f"characters_{a}_{b - 1}" for a, b in itertools.pairwise(_LENGTHS)),
  f"characters_{_LENGTHS[-1]}_and_more",
)

# language -> "queries", a sign or a range of lengths -> count
Counts = dict[str, dict[str, int]]
# One language's counts as files note them.
CountsRecord = TypedDict(
  "CountsRecord",
  # Keys that are put together, which no checker can follow.
  dict.fromkeys(  # pyright: ignore[reportArgumentType]
    ("queries", *SIGNS, *LENGTHS), Count
  ),
)


class SampleRecord(TypedDict):
  """Contents of `health_sample.json`."""

  counts: Annotated[dict[str, CountsRecord], msgspec.Meta(min_length=1)]
  examples: list[dict[str, Any]]


def count_signs(
  passage: Passage,
  queries: Mapping[str, Sequence[str]],
  unfinished: Mapping[str, int] | None = None,
) -> Counts:
  """Counts the queries of one passage, and what is wrong with them.

  Signs, of which a query may have several: `empty`; `duplicate` of an earlier
  query of the passage; `sentinel`, a masked word of mT5's pre-training;
  `copy`, literally a part of the passage; `wrong_script`, fewer than half of
  the letters in the script of the language asked for; `unfinished`, broken off
  at the limit of tokens.

  Args:
    passage: what the queries were written for.
    queries: by language code.
    unfinished: by language code, how many of them were broken off.

  >>> counts = count_signs(
  ...   Passage("1", "Lake Como lies in the Alps."),
  ...   {"ru": ["Где Комо?", "lake como lies", ""]},
  ... )
  >>> {name: count for name, count in counts["ru"].items() if name in SIGNS}
  ... # doctest: +NORMALIZE_WHITESPACE
  {'empty': 1, 'duplicate': 0, 'sentinel': 0, 'copy': 1, 'wrong_script': 1,
   'unfinished': 0}
  """
  source = normalize(f"{passage.title} {passage.text}")
  counts: Counts = {}
  seen: set[str] = set()
  for language, texts in queries.items():
    row = counts[language] = dict.fromkeys(("queries", *SIGNS, *LENGTHS), 0)
    row["unfinished"] = (unfinished or {}).get(language, 0)
    for query in texts:
      row["queries"] += 1
      row[_find_length(query)] += 1
      for sign in _find_signs(query, language, source, seen):
        row[sign] += 1
      seen.add(normalize(query))
  return counts


def _find_signs(
  query: str, language: str, source: str, seen: Set[str]
) -> list[str]:
  text = normalize(query)
  if not text:
    return ["empty"]
  found = {
    "duplicate": text in seen,
    "sentinel": "<extra_id_" in text,
    "copy": text in source,
    "wrong_script": not is_in_script(query, get_language(language)),
  }
  return [sign for sign, is_there in found.items() if is_there]


def _find_length(query: str) -> str:
  """The range in which the length of a query lies.

  >>> _find_length("Missä Como on?")
  'characters_8_15'
  """
  place = sum(len(query) >= length for length in _LENGTHS)
  return LENGTHS[place - 1]


def normalize(text: str) -> str:
  """A text without case and runs of blanks, as queries are compared.

  >>> normalize(" Where  is IT?")
  'where is it?'
  """
  return " ".join(text.casefold().split())


def add_counts(many: Iterable[Counts]) -> Counts:
  """Adds counts up by language.

  >>> add_counts([{"fi": {"queries": 2}}, {"fi": {"queries": 3}}])
  {'fi': {'queries': 5}}
  """
  total: Counts = {}
  for counts in many:
    for language, row in counts.items():
      kept = total.setdefault(language, dict.fromkeys(row, 0))
      for name, count in row.items():
        kept[name] += count
  return total


def to_shares(counts: Counts) -> dict[str, dict[str, float]]:
  """The share of queries with each sign, by language and for `all`.

  >>> to_shares({"fi": {"queries": 4, "empty": 1}})
  {'fi': {'empty': 0.25}, 'all': {'empty': 0.25}}
  """
  whole = add_counts({"all": row} for row in counts.values())
  return {
    language: {
      sign: round(count / max(1, row["queries"]), 6)
      for sign, count in row.items()
      if sign != "queries"
    }
    for language, row in (counts | whole).items()
  }


# --------------------------------------------------------------------- verdict


def find_faults(counts: Counts) -> dict[str, list[str]]:
  """What is wrong with each language, and with `all` together, in words.

  >>> find_faults({"fi": {"queries": 40, "empty": 10}})
  {'fi': ['25% empty'], 'all': ['25% empty']}
  """
  shares = to_shares(counts)
  whole = add_counts({"all": row} for row in counts.values())
  return {
    language: [
      f"{shares[language][sign]:.0%} {sign.replace('_', ' ')}"
      for sign, limit in LIMITS.items()
      if row.get(sign, 0) >= max(_FEWEST, limit * row["queries"])
    ]
    for language, row in (counts | whole).items()
  }


def format_health(counts: Counts) -> str:
  """A table of the shares, in percent.

  >>> print(format_health({"fi": {"queries": 4, "empty": 1, "copy": 0}}))
        queries  empty   copy
  fi          4   25.0    0.0
  all         4   25.0    0.0
  """
  whole = add_counts({"all": row} for row in counts.values())
  rows = counts | whole
  signs = [name for name in next(iter(rows.values())) if name in SIGNS]
  titles = ["queries", *(sign.replace("_", " ") for sign in signs)]
  widths = [max(6, len(title)) + 1 for title in titles]
  lines = ["     " + "".join(map(str.rjust, titles, widths))]
  for language, shares in to_shares(counts).items():
    cells = [f"{rows[language]['queries']:,}"]
    cells += [f"{100 * shares[sign]:.1f}" for sign in signs]
    lines.append(f"{language:<5}" + "".join(map(str.rjust, cells, widths)))
  return "\n".join(lines)
