"""Inference: predictions, timelines, embeddings and explanations. Needs no TensorFlow."""
