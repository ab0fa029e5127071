"""Passage texts by id, with their generated queries, for display."""

import dataclasses
import os
from collections.abc import Collection, Mapping, Sequence

from xqg_jax.data.generated_queries import read_generated_queries
from xqg_jax.data.passages import Passage, read_passages
from xqg_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class ShownPassage:
  """A passage and its generated queries by language."""

  passage: Passage
  queries: Mapping[str, Sequence[str]]


def read_shown_passages(
  passage_ids: Collection[str],
  *,
  passages: str | os.PathLike,
  generated_queries: str | os.PathLike | None = None,
) -> dict[str, ShownPassage]:
  """Reads the passages with the given ids, and no others.

  Args:
    passage_ids: which.
    passages: the collection, in a form that `encode` takes.
    generated_queries: file or folder of the released form, if any.

  Raises:
    InputError: a malformed file, or an id that is not in it.
  """
  wanted = set(passage_ids)
  everything = read_passages(passages)
  found = {p.passage_id: p for p in everything if p.passage_id in wanted}
  if missing := wanted - found.keys():
    raise InputError(
      f"{len(missing):,} passages of the index are not in it, such as "
      f"{min(missing)!r}",
      where=passages,
      mend="give the passages that were encoded",
    )
  queries: dict[str, Mapping[str, Sequence[str]]] = {}
  if generated_queries is not None:
    for _, item in read_generated_queries(generated_queries):
      if item.passage_id in wanted:
        queries[item.passage_id] = item.queries
  return {i: ShownPassage(found[i], queries.get(i, {})) for i in wanted}
