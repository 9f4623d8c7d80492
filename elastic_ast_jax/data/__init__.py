"""Open clips with known lengths and labels, and turn them into batches."""
