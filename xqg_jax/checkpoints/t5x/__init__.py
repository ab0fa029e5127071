"""Checkpoints of T5X, read and written."""
