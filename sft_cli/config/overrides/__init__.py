"""Settings on the command line: their grammar, their quoting, and sweeps."""
