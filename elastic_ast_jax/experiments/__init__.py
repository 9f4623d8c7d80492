"""Sweeps over runs, and the experiments of the paper."""
