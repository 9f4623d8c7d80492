"""The model:

a pure function of parameters and a PackedBatch. Knows nothing of audio files, data sets or meshes.
"""
