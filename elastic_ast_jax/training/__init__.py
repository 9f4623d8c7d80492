"""The training step, losses, optimizers and logging."""
