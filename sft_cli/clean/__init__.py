"""Filters over conversations, one file each. No torch at import."""
