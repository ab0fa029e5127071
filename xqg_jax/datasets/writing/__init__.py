"""TFDS shards and plain files, written so that a kill loses little."""
