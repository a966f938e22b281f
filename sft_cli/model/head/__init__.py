"""The loss at the trained positions, and its optional terms."""
