"""Prompt of the query generator, one for training and generation.

A prompt that is longer than the model takes loses the end of its passage. The
instruction, which names the language, always stays whole; of the rest the
title gets at most half, so that it never stands alone.

Where the decoder is told the language instead, the prompt is title and passage
alone, one for all languages, and the decoder begins with the language's name.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Int

from xqg_jax.data.languages import Language
from xqg_jax.data.passages import Passage
from xqg_jax.errors import InputError

LANGUAGE_IN = ("prompt", "decoder")
# Far more than a token has.
_CHARACTERS_A_TOKEN = 100


def make_instruction(language: Language) -> str:
  """The beginning of a prompt, which names the language.

  >>> from xqg_jax.data.languages import get_language
  >>> make_instruction(get_language("fi"))
  'Generate a Finnish question for this passage:'
  """
  return f"Generate a {language.name} question for this passage:"


def make_decoder_start(language: Language) -> str:
  """What the decoder begins with where no prompt names the language.

  >>> from xqg_jax.data.languages import get_language
  >>> make_decoder_start(get_language("fi"))
  'Finnish:'
  """
  return f"{language.name}:"


def make_prompt_parts(
  passage: Passage, language: Language | None
) -> tuple[str, str, str]:
  """The instruction; instruction and title; the whole prompt.

  Args:
    passage: to ask for a question to.
    language: of the question; None: the decoder is told, not the prompt.

  >>> from xqg_jax.data.languages import get_language
  >>> passage = Passage("1", "It lies in the Alps.", "Lake Como")
  >>> parts = make_prompt_parts(passage, get_language("fi"))
  >>> [part.removeprefix(parts[0]) for part in parts]
  ['', ' Lake Como', ' Lake Como It lies in the Alps.']
  """
  instruction = make_instruction(language) if language else ""
  head = f"{instruction} {passage.title}".strip()
  return instruction, head, f"{head} {passage.text}".strip()


def make_prompt(passage: Passage, language: Language | None) -> str:
  """Asks for a question in `language`, as Zhuang et al. (2023) do.

  >>> from xqg_jax.data.languages import get_language
  >>> passage = Passage("1", "It lies in the Alps.", "Lake Como")
  >>> make_prompt(passage, get_language("fi"))[:48]
  'Generate a Finnish question for this passage: La'
  """
  return make_prompt_parts(passage, language)[-1]


def shorten(passage: Passage, limit: int) -> Passage:
  """Leaves out what lies far behind the first `limit` tokens.

  A passage of megabytes need not be tokenised to its end. What is left has
  `limit` tokens and many more, unless nearly all of it is blanks.

  >>> len(shorten(Passage("1", "lake " * 10**6), 256).text)
  25600
  """
  most = limit * _CHARACTERS_A_TOKEN
  if max(len(passage.title), len(passage.text)) <= most:
    return passage
  return dataclasses.replace(
    passage, title=passage.title[:most], text=passage.text[:most]
  )


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
