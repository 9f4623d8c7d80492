"""Meshes, shardings of parameters and batches, and several processes."""
