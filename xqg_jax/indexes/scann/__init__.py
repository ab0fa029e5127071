"""ScaNN indexes: build, shards, tuning, worker process."""
