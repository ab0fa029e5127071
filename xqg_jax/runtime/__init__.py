"""Devices, processes and programs: meshes, prefetching, costs."""
