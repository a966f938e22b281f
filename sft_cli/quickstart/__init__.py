"""The embedded quickstart: a tiny base model and its instruction data. Made by scripts/build_quickstart.py."""
