"""Training: the session, the loop, the optimizer, checkpoints and metrics."""
