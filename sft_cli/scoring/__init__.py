"""Score answers: scorers by name, the verdict of one answer, and scores over many. Does not import torch."""
