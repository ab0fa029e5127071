"""Exact search on device and CPU, for one or all augmentations."""
