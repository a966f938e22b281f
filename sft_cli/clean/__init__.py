"""Filter conversations: one filter per file. torch is not imported with the package."""
