"""Attention within a clip: its interface, its implementations and the suite that each must pass."""
