"""The keys of a config: plain dataclasses, one file for each group."""
