"""Checkpoints, resuming, and the exported model."""
