"""The stages of preparation: rows, filters, examples, the prepared directory; each from the cache where it is there."""
