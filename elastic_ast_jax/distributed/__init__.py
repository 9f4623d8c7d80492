"""Meshes of devices, partitioning of parameters, and processes."""
