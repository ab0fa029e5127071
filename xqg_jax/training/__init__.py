"""Training: models with their losses, loop, state, checkpoints, metrics."""
