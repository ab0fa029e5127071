"""Embedding stores: shards of arrays with checksums."""
