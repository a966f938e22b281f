"""Show prepared data: a report page, and single rows as coloured tokens. torch is not imported."""
