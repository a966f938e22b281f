"""Sweeps: several runs from one command line, ranked. No torch here: each member is a process of its own."""
