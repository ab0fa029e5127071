"""Files of Hugging Face and sentence-transformers models."""
