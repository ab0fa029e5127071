"""Dual encoders: configuration, pooling, network."""
