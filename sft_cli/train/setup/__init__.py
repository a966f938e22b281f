"""From a config to a run that can start: checks, run directory, and the model."""
