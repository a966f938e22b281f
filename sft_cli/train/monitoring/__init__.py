"""Metrics, evaluation, divergence and retention checks during training."""
