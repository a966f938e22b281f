"""Serve a run's model on loopback through an OpenAI-compatible server, for trying it."""
