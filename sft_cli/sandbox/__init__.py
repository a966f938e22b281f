"""A Jinja sandbox for untrusted templates and expressions: they read only what they are given, within a budget."""
