"""Packed attention: several documents in one row that do not attend to each other."""
