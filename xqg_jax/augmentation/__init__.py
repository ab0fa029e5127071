"""Augmented passage vectors: weights, fusion, views of a store."""
