"""Indexes: exact and ScaNN search over the vectors of a store or view."""
