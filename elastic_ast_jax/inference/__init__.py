"""A trained model for use:

recordings in, probabilities, timelines, embeddings and pictures out. Needs no TensorFlow.
"""
