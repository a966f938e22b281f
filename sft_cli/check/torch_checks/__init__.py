"""Checks that need torch: a small model, the memory of the real one, and the devices of this machine."""
