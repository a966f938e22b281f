"""Evaluation of a run on held-out rows: loss, perplexity, greedy answers."""
