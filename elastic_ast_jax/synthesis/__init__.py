"""Synthesize sounds: presets that are drawn at random, and their rendering to waveforms."""
