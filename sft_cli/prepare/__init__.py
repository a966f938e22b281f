"""Run the stages of preparation: rows, filters, examples, the prepared directory. Finished stages are cached."""
