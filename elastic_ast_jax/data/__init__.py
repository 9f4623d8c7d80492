"""Clips with known lengths and labels, and the batches made of them."""
