"""Compare results of suites between runs: paired differences, costs, settings and answers. Does not import torch."""
