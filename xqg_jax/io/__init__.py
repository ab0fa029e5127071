"""Files and folders: atomic writes, claims, storage on disk and in buckets."""
