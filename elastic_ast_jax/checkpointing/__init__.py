"""The folder of a run, its checkpoints, and opening its model."""
