"""Memory of a training step: its estimate, and the recomputation that reduces it."""
