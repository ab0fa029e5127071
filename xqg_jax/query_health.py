"""Signs of an unwell query generator, counted in what it writes."""

from collections.abc import Iterable, Mapping, Sequence, Set

from xqg_jax.languages import get_language, is_in_script
from xqg_jax.records import Passage

SIGNS = ("empty", "duplicate", "sentinel", "copy", "wrong_script")

# language -> "queries" or a sign -> count
Counts = dict[str, dict[str, int]]


def count_signs(
  passage: Passage, queries: Mapping[str, Sequence[str]]
) -> Counts:
  """Counts the queries of one passage, and what is wrong with them.

  Signs, of which a query may have several: `empty`; `duplicate` of an earlier
  query of the passage; `sentinel`, a masked word of mT5's pre-training;
  `copy`, literally a part of the passage; `wrong_script`, fewer than half of
  the letters in the script of the language asked for.

  Args:
    passage: what the queries were written for.
    queries: by language code.

  >>> counts = count_signs(
  ...   Passage("1", "Lake Como lies in the Alps."),
  ...   {"ru": ["Где Комо?", "lake como lies", ""]},
  ... )
  >>> {name: count for name, count in counts["ru"].items() if count}
  {'queries': 3, 'empty': 1, 'copy': 1, 'wrong_script': 1}
  """
  source = _normalize(f"{passage.title} {passage.text}")
  counts: Counts = {}
  seen: set[str] = set()
  for language, texts in queries.items():
    row = counts[language] = dict.fromkeys(("queries", *SIGNS), 0)
    for query in texts:
      row["queries"] += 1
      for sign in _find_signs(query, language, source, seen):
        row[sign] += 1
      seen.add(_normalize(query))
  return counts


def _find_signs(
  query: str, language: str, source: str, seen: Set[str]
) -> list[str]:
  text = _normalize(query)
  if not text:
    return ["empty"]
  found = {
    "duplicate": text in seen,
    "sentinel": "<extra_id_" in text,
    "copy": text in source,
    "wrong_script": not is_in_script(query, get_language(language)),
  }
  return [sign for sign, is_there in found.items() if is_there]


def _normalize(text: str) -> str:
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
