"""Faster ways to compute the same results; every module is exact, or states its error."""
