"""Config files: where they are, how they are read, and which of their lines set a value."""
