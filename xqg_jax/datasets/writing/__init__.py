"""Writers of data sets: TFDS shards and plain files."""
