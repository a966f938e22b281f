"""Faster computation of the same results; every module is exact or states its error."""
