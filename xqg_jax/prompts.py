"""The prompt of the query generator, one for training and generation."""

from xqg_jax.languages import Language
from xqg_jax.records import Passage


def make_prompt(passage: Passage, language: Language) -> str:
  """Asks for a question in `language`, as Zhuang et al. (2023) do.

  >>> from xqg_jax.languages import get_language
  >>> passage = Passage("1", "It lies in the Alps.", "Lake Como")
  >>> make_prompt(passage, get_language("fi"))[:48]
  'Generate a Finnish question for this passage: La'
  """
  about = f"{passage.title} {passage.text}".strip()
  return f"Generate a {language.name} question for this passage: {about}"
