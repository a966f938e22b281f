"""From an adapter to a plain model."""
