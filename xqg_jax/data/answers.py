"""Answers of questions: which are scored, and whether a text holds one."""

import unicodedata
from collections.abc import Iterable

from xqg_jax.data.questions import Question

_UNSCORED_ANSWERS = frozenset({"yes", "no"})


def scored_answers(question: Question) -> tuple[str, ...]:
  """The answers that XOR-Retrieve scores: all but "yes" and "no".

  A question that has none left is dropped from its measures.

  >>> scored_answers(Question("1", "...", "fi", ("no", "in 1917")))
  ('in 1917',)
  """
  return tuple(a for a in question.answers if a not in _UNSCORED_ANSWERS)


def contains_answer(text: str, answers: Iterable[str]) -> bool:
  """Whether the words of an answer follow one another in the text.

  >>> contains_answer("The Panthers scored 308 points.", ["308 Points"])
  True
  >>> contains_answer("Portlandia", ["Portland"])
  False
  """
  words = to_words(text)
  return any(to_words(answer) in words for answer in answers)


def to_words(text: str) -> str:
  """Words of a text, lower-cased and between single blanks."""
  import regex

  text = unicodedata.normalize("NFD", text).lower()
  words = regex.findall(r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]", text)
  return f" {' '.join(words)} "
