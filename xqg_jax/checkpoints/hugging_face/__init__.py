"""Hugging Face's and sentence-transformers' files, read and written."""
