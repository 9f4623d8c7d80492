"""Provide small modules that every other package uses."""
