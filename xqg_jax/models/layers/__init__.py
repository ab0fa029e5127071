"""Layers that several networks share, and their forms for CPUs."""
