"""A local web page of runs: lists, curves, data and evaluations, read from run directories."""
