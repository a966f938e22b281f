"""Rules that go beyond types and limits, one file for each group of the schema."""
