"""Templates: English passages, questions in seven languages."""

from xqg_jax.xor_mini.templates import ar, bn, fi, ja, ko, ru, te
from xqg_jax.xor_mini.templates.en import ENTITY_TYPES, EntityType

QUESTIONS: dict[str, dict[str, dict[str, tuple[str, ...]]]] = {
  "ar": ar.QUESTIONS,
  "bn": bn.QUESTIONS,
  "fi": fi.QUESTIONS,
  "ja": ja.QUESTIONS,
  "ko": ko.QUESTIONS,
  "ru": ru.QUESTIONS,
  "te": te.QUESTIONS,
}

__all__ = ["ENTITY_TYPES", "QUESTIONS", "EntityType"]
