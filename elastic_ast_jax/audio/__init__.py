"""Recordings to waveforms, waveforms to log-mels:

NumPy, soundfile and librosa, neither TensorFlow nor JAX.
"""
