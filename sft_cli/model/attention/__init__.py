"""Packed attention: several documents in one row, none of which sees another."""
