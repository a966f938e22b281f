"""Metrics, evaluation and guards while training."""
