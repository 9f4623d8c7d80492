"""Read recordings and compute log-mels with NumPy, soundfile and librosa.

This package imports neither TensorFlow nor JAX.
"""
