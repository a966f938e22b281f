"""Verify that a saved model, adapter or GGUF file behaves where it is served as it did in training."""
