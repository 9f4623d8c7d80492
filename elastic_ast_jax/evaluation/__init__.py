"""Metrics, sweeps, comparisons and their plots."""
