"""A synthetic cross-lingual collection, from 200 to 1,000,000 passages."""

from xqg_jax.xor_mini.generator import iter_passages, make_xor_mini

__all__ = ["iter_passages", "make_xor_mini"]
