"""What a person looks at: the report of prepared data, and single rows as coloured tokens. No torch."""
