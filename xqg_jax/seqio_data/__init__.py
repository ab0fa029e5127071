"""SeqIO's side: sources, vocabularies, preprocessors, batches."""
