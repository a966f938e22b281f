"""Which rows an epoch holds, how often, in which stages, and which are held out. Arrays only, no texts."""
