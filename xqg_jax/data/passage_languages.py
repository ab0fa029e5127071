"""Languages of passages: from a field of their files, or identified."""

import collections
import os
from collections.abc import Iterator, Mapping, Sequence

from xqg_jax.data.json_lines import get_id, read_json_lines
from xqg_jax.data.languages import get_language, identify_language
from xqg_jax.data.passages import list_passage_files, read_passages
from xqg_jax.errors import InputError


def read_passage_languages(
  path: str | os.PathLike,
  *,
  field: str | None,
  languages: Sequence[str] = (),
) -> dict[str, str]:
  """Reads the language of each passage.

  Args:
    path: JSONL with the field, or passages of any form to identify.
    field: of the language's code; None: languages are identified, by the extra
      `langid`.
    languages: to choose among where they are identified.

  Returns:
    {passage_id: code}, in the order of the files.

  Raises:
    InputError: no such field, an unknown code, or a passage whose language
      cannot be identified; the message names file and line, or the passage.
  """
  found = _identify(path, languages) if field is None else _read(path, field)
  return dict(found)


def _read(path: str | os.PathLike, field: str) -> Iterator[tuple[str, str]]:
  for file in list_passage_files(path):
    if ".jsonl" not in file.suffixes:
      raise InputError(
        "only JSONL has fields of languages",
        where=file,
        mend="give JSONL, or set LANGUAGE_FIELD=None to identify languages",
      )
    for where, row in read_json_lines(file):
      code = row.get(field)
      if not isinstance(code, str):
        raise InputError(
          f"no language in the field {field!r}",
          where=where,
          mend='add a code such as "fi", or set LANGUAGE_FIELD',
        )
      language = get_language(code.strip(), where=where)
      yield get_id(row, "docid", where, kind="passage"), language.code


def _identify(
  path: str | os.PathLike, languages: Sequence[str]
) -> Iterator[tuple[str, str]]:
  if not languages:
    raise InputError(
      "no languages to choose among",
      mend="set LANGUAGES, or LANGUAGE_FIELD where passages have the field",
    )
  for passage in read_passages(path):
    code = identify_language(passage.text, languages)
    if code is None:
      raise InputError(
        f"the language of passage {passage.passage_id!r} is not identified",
        where=path,
        mend="pip install 'xqg_jax[langid]', or give a field of languages",
      )
    yield passage.passage_id, code


def order_languages(
  by_id: Mapping[str, str], passage_ids: Sequence[str], *, where: object
) -> list[str]:
  """The language of each passage of a store, in order of rows.

  Raises:
    InputError: a passage without a language.
  """
  for passage_id in passage_ids:
    if passage_id not in by_id:
      raise InputError(
        f"no language of passage {passage_id!r}",
        where=where,
        mend="give the passages that were encoded",
      )
  return [by_id[passage_id] for passage_id in passage_ids]


def describe_languages(languages: Sequence[str]) -> str:
  """How many passages are in each language.

  >>> describe_languages(["fi", "ko", "fi"])
  'fi 2, ko 1'
  """
  counts = sorted(collections.Counter(languages).items())
  return ", ".join(f"{name} {count:,}" for name, count in counts)
