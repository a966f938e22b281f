"""The loss of a model at the trained positions."""
