"""Adapters of PEFT, and training some of the base's own weights."""
