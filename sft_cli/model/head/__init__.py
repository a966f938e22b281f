"""The loss where it is needed, and what may be added to it."""
