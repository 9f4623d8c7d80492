"""The configuration: its schema, loading and validation."""
