"""The checks of ``scripts/gpu_acceptance.py``: what a card shows that a CPU cannot."""
