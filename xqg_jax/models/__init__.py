"""Flax modules: BERT and T5 families, and the dual encoder over them."""
