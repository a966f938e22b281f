"""Trace failed items of an evaluation to the training rows that are nearest to them. Does not import torch."""
