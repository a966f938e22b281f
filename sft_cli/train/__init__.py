"""Training: which examples make a step, where they are computed, the loop, checkpoints and metrics."""
