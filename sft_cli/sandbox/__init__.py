"""A Jinja sandbox for untrusted templates and expressions: access only to given values, within a budget."""
