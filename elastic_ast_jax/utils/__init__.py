"""Small modules that every other room may import."""
