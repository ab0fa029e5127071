"""TFDS builders of the public data sets; importing this registers them.

It imports TensorFlow, so nothing that must be light may import it.
"""

from xqg_jax.datasets.natural_questions_dpr import NaturalQuestionsDpr
from xqg_jax.datasets.wiki_passages import WikiPassages
from xqg_jax.datasets.xor_tydi import XorTydi

__all__ = ["NaturalQuestionsDpr", "WikiPassages", "XorTydi"]
