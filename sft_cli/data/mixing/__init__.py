"""Decide which rows an epoch holds, how often and in which stages, and which are held out. Arrays only, no texts."""
