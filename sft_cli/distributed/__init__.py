"""Distributed runs: ranks, process launch and collectives."""
