"""Texts to vectors: batches, packing on devices, the encoding job."""
