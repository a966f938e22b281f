"""Which characters and tokens of a rendered conversation are trained, and the proof of it."""
