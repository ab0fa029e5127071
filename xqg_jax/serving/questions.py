"""Validation of questions: length, characters, alpha, k."""

from xqg_jax.errors import InputError

MAX_QUESTION_LENGTH = 2000


def check_question(question: str) -> str:
  """The question without blanks around it.

  Raises:
    InputError: it is empty, too long, or not text.

  >>> check_question("  why? ")
  'why?'
  """
  question = question.strip()
  if not question:
    raise InputError("the question is empty", mend="write one")
  if len(question) > MAX_QUESTION_LENGTH:
    raise InputError(
      f"the question has {len(question):,} characters",
      mend=f"use at most {MAX_QUESTION_LENGTH:,}",
    )
  try:
    question.encode("utf-8")
  except UnicodeEncodeError:
    raise InputError(
      "the question is not valid Unicode", mend="give it in UTF-8"
    ) from None
  return question


def check_numbers(*, alpha: float | None, k: int) -> None:
  """Refuses an alpha outside 0 to 1 and a k below 1.

  Raises:
    InputError: one of them.
  """
  if alpha is not None and not 0 <= alpha <= 1:
    raise InputError(f"alpha is {alpha}", mend="choose it between 0 and 1")
  if k < 1:
    raise InputError(f"k is {k}", mend="ask for at least one passage")
