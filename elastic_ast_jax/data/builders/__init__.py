"""TensorFlow Datasets (TFDS) builders for the data sets of the paper, and for manifests:

from files to ArrayRecord.
"""
