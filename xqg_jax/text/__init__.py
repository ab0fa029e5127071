"""Text to tokens: tokenizers, prompts, packing into rows."""
