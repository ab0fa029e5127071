"""Questions by language to take means of: the shipped bank, or files."""

import os
import pathlib
from collections.abc import Iterator

from xqg_jax.data.generated_queries import list_shards, read_generated_queries
from xqg_jax.data.json_lines import read_json_lines
from xqg_jax.data.questions import read_questions
from xqg_jax.io.paths import Path, to_path

BANK_FILE = pathlib.Path(__file__).with_name("question_bank.jsonl")


def read_bank(
  path: str | os.PathLike | None = None,
) -> Iterator[tuple[str, str]]:
  """Streams questions with their languages.

  Args:
    path: JSONL of questions (`id, question, lang`), or of generated queries,
      a file or a folder of shards; None: the bank that is shipped, everyday
      questions written for this purpose.

  Yields:
    (language code, question), in the order of the file.

  Raises:
    InputError: file missing or empty, or a malformed line.
  """
  path = BANK_FILE if path is None else to_path(path)
  if not path.is_dir() and not _holds_generated_queries(path):
    for question in read_questions(path):
      yield question.language, question.question
    return
  for _, found in read_generated_queries(path):
    for language, texts in found.queries.items():
      yield from ((language, text) for text in texts if text.strip())


def list_bank_files(path: str | os.PathLike | None) -> list[Path]:
  """The files that `read_bank` reads.

  Raises:
    InputError: a folder without any.
  """
  return [BANK_FILE] if path is None else list_shards(path)


def _holds_generated_queries(path: Path) -> bool:
  _, first = next(read_json_lines(path), ("", {}))
  return "generated_queries" in first
