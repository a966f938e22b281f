"""Metrics of one answer against its item: text, numbers, JSON, overlap, classes, citations and lengths."""
