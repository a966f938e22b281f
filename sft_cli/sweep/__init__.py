"""Sweeps: several runs from one command line, ranked. Uses no torch; each member runs in its own process."""
