"""The suites of an evaluation: items, prompts, results on disk and scores. Does not import torch."""
