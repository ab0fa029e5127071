"""Demo: every stage on an invented collection."""
