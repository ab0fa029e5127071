"""Layers that several networks share, and what CPUs need."""
