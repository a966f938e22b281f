"""Overrides on the command line: grammar, quoting and sweeps."""
