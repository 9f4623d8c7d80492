"""Attention within a clip: the interface, the implementations and their conformance suite."""
