"""Small modules with names that every room may use."""
