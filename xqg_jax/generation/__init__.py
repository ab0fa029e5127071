"""Query generation: decoding, prompts in slots, shards, health and filters."""
