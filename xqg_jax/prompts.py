"""The prompt of the query generator, one for training and generation.

A prompt that is longer than the model takes loses the end of its passage. The
instruction, which names the language, always stays whole; of the rest the
title gets at most half, so that it never stands alone.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Int

from xqg_jax.errors import InputError
from xqg_jax.languages import Language
from xqg_jax.records import Passage


def make_instruction(language: Language) -> str:
  """The beginning of a prompt, which names the language.

  >>> from xqg_jax.languages import get_language
  >>> make_instruction(get_language("fi"))
  'Generate a Finnish question for this passage:'
  """
  return f"Generate a {language.name} question for this passage:"


def make_prompt_parts(
  passage: Passage, language: Language
) -> tuple[str, str, str]:
  """The instruction; instruction and title; the whole prompt.

  >>> from xqg_jax.languages import get_language
  >>> passage = Passage("1", "It lies in the Alps.", "Lake Como")
  >>> parts = make_prompt_parts(passage, get_language("fi"))
  >>> [part.removeprefix(parts[0]) for part in parts]
  ['', ' Lake Como', ' Lake Como It lies in the Alps.']
  """
  instruction = make_instruction(language)
  head = f"{instruction} {passage.title}".rstrip()
  return instruction, head, f"{head} {passage.text}".rstrip()


def make_prompt(passage: Passage, language: Language) -> str:
  """Asks for a question in `language`, as Zhuang et al. (2023) do.

  >>> from xqg_jax.languages import get_language
  >>> passage = Passage("1", "It lies in the Alps.", "Lake Como")
  >>> make_prompt(passage, get_language("fi"))[:48]
  'Generate a Finnish question for this passage: La'
  """
  return make_prompt_parts(passage, language)[-1]


def share_room(
  room: Any,
  num_title: Any,
  num_text: Any,
  *,
  minimum: Callable[[Any, Any], Any] = min,
  maximum: Callable[[Any, Any], Any] = max,
) -> tuple[Any, Any]:
  """Shares the tokens after the instruction among title and text.

  Args:
    room: tokens to share.
    num_title: tokens of the title.
    num_text: tokens of the text.
    minimum: such as `tf.minimum`, if the numbers are tensors.
    maximum: such as `tf.maximum`.

  Returns:
    Tokens kept of the title and of the text, from the beginning of each.

  >>> share_room(10, 3, 20)  # the text loses its end
  (3, 7)
  >>> share_room(10, 30, 20)  # a long title gets half
  (5, 5)
  >>> share_room(10, 30, 2)
  (8, 2)
  """
  title = minimum(num_title, maximum(room - num_text, room // 2))
  return title, minimum(num_text, room - title)


def cut_prompt(
  tokens: Int[np.ndarray, " length"],
  *,
  num_instruction: int,
  num_head: int,
  limit: int,
) -> Int[np.ndarray, " kept"]:
  """Cuts the tokens of a prompt as `share_room` says.

  Args:
    tokens: of the whole prompt, without the end of sequence.
    num_instruction: how many of them are the instruction.
    num_head: how many are instruction and title.
    limit: tokens to keep; those of the end of sequence not counted.

  >>> cut_prompt(np.arange(9), num_instruction=2, num_head=5, limit=6)
  array([0, 1, 2, 3, 5, 6])
  """
  if len(tokens) <= limit:
    return tokens
  title, text = share_room(
    limit - num_instruction, num_head - num_instruction, len(tokens) - num_head
  )
  return np.concatenate(
    [tokens[: num_instruction + title], tokens[num_head : num_head + text]]
  )


def check_limit(limit: int, num_instruction: int) -> None:
  """Refuses a limit that leaves no room for a passage.

  Args:
    limit: tokens of a prompt, the end of sequence included.
    num_instruction: tokens of the longest instruction.

  Raises:
    InputError: the instruction, one more token and the end do not fit.
  """
  if limit < num_instruction + 2:
    raise InputError(
      f"prompts are limited to {limit} tokens, and the instruction alone has "
      f"{num_instruction}: no passage fits in",
      mend=f"allow at least {num_instruction + 2} tokens, better 128",
    )
