"""The networks: pure functions of parameters and a PackedBatch.

They do not depend on audio files, data sets or meshes.
"""
