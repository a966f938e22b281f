"""How much memory a step takes, and what is computed again to save some."""
