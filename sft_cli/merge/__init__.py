"""Merge an adapter into its base, so that the result is a plain model."""
