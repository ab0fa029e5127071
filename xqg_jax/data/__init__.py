"""Records and their files: passages, questions, queries, pairs, runs."""
