"""Benchmarks and compilation ahead of time."""
