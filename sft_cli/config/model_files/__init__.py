"""What the config needs to know about a model's files, without torch."""
