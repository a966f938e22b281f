"""The configuration of a run: its schema, its composition by Hydra, and where each value came from."""
