"""A collection of a few training pairs, with tokenizers to match."""

import functools
import pathlib

from xqg_jax.data.languages import XOR_TYDI_LANGUAGES, get_languages
from xqg_jax.data.passages import Passage
from xqg_jax.data.training_pairs import (
  TrainingPair,
  read_training_pairs,
  write_training_pairs,
)
from xqg_jax.text.prompts import make_instruction
from xqg_jax.text.tokenizer import Tokenizer
from xqg_jax.text.tokenizer_training import train_tokenizer

QUESTIONS = {
  "fi": "Missä joki {} virtaa?",
  "ru": "Где течёт река {}?",
  "ko": "{} 강은 어디에 흐르나요?",
}
# Pairs of each language: unequal, so that mixing rates show.
COUNTS = {"fi": 8, "ru": 4, "ko": 4}


def make_pairs() -> list[TrainingPair]:
  pairs = []
  for language, count in COUNTS.items():
    for number in range(count):
      name = f"{language}{'abcdefgh'[number]}or"
      pairs.append(
        TrainingPair(
          query_id=f"{language}{number}",
          query=QUESTIONS[language].format(name),
          language=language,
          positives=(
            Passage(f"p{name}", f"The river {name} flows north.", name),
          ),
          # Three, two, one or no hard negatives.
          negatives=tuple(
            Passage(f"n{name}{i}", f"{i} lakes of {name} are deep.", "Lake")
            for i in range(3 - number % 4)
          ),
        )
      )
  return pairs


def write_collection(folder: pathlib.Path) -> pathlib.Path:
  with open(folder / "train_pairs.jsonl", "w", encoding="utf-8") as file:
    write_training_pairs(file, make_pairs())
  assert list(read_training_pairs(folder / "train_pairs.jsonl"))
  return folder


@functools.cache
def make_tokenizer(style: str) -> Tokenizer:
  texts = [
    text
    for pair in make_pairs()
    for text in (
      pair.query,
      *(f"{p.title} {p.text}" for p in pair.positives + pair.negatives),
    )
  ]
  # Whole words of the prompts: short limits must leave room for a passage.
  languages = get_languages(XOR_TYDI_LANGUAGES)
  texts += 20 * [make_instruction(language) for language in languages]
  return train_tokenizer(texts, vocab_size=200, style=style)
