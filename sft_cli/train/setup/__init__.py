"""Set up a run: checks, run directory and model."""
