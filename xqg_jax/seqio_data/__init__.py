"""SeqIO data: sources, vocabularies, preprocessors, batches."""
